package main

import (
	"strings"

	"golang.org/x/tools/go/analysis"
	"honnef.co/go/tools/unused"
)

// unusedAnalyzer reports what honnef's unused computes. A package is looked at once
// with and once without its tests; the report is made with them, so that what only
// a test of the same package uses is not called dead.
var unusedAnalyzer = &analysis.Analyzer{
	Name:     "unused",
	Doc:      "unexported code that nothing uses",
	Requires: []*analysis.Analyzer{unused.Analyzer.Analyzer},
	Run: func(p *analysis.Pass) (any, error) {
		res, ok := p.ResultOf[unused.Analyzer.Analyzer].(unused.Result)
		if !ok {
			return nil, nil
		}
		used := make(map[string]bool)
		for _, o := range res.Used {
			used[o.Path.PkgPath+"."+o.Name] = true
		}
		for _, o := range res.Unused {
			if used[o.Path.PkgPath+"."+o.Name] || strings.HasPrefix(o.Name, "_") {
				continue
			}
			for _, f := range p.Files {
				file := p.Fset.File(f.FileStart)
				if file.Name() != o.Position.Filename || o.Position.Line > file.LineCount() {
					continue
				}
				p.Reportf(file.LineStart(o.Position.Line), "%s %s is unused", o.Kind, o.Name)
			}
		}
		return nil, nil
	},
}
