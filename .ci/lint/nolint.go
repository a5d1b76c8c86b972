package main

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"
)

// nolintComment is `//nolint:a,b // reason`.
var nolintComment = regexp.MustCompile(`^//nolint:([A-Za-z0-9,]+)(?:\s*//\s*(.*))?$`)

// silenceable makes each analyser respect nolint comments.
func silenceable(as []*analysis.Analyzer) []*analysis.Analyzer {
	for _, a := range as {
		run := a.Run
		a.Run = func(p *analysis.Pass) (any, error) {
			report := p.Report
			p.Report = func(d analysis.Diagnostic) {
				if !silenced(p, d.Pos, a.Name) {
					report(d)
				}
			}
			return run(p)
		}
	}
	return as
}

func silenced(p *analysis.Pass, pos token.Pos, name string) bool {
	at := p.Fset.Position(pos)
	for _, f := range p.Files {
		if f.FileStart > pos || pos > f.FileEnd {
			continue
		}
		if ast.IsGenerated(f) {
			return true
		}
		for _, group := range f.Comments {
			for _, c := range group.List {
				line := p.Fset.Position(c.Pos()).Line
				if line != at.Line && line != at.Line-1 {
					continue
				}
				if m := nolintComment.FindStringSubmatch(c.Text); m != nil && slices.Contains(strings.Split(m[1], ","), name) {
					return true
				}
			}
		}
	}
	return false
}

var nolintReason = &analysis.Analyzer{
	Name: "nolint",
	Doc:  "silencing a linter needs a reason",
	Run: func(p *analysis.Pass) (any, error) {
		for _, f := range p.Files {
			for _, group := range f.Comments {
				for _, c := range group.List {
					if !strings.HasPrefix(c.Text, "//nolint") {
						continue
					}
					if m := nolintComment.FindStringSubmatch(c.Text); m == nil || m[2] == "" {
						p.Reportf(c.Pos(), "write //nolint:NAME // reason")
					}
				}
			}
		}
		return nil, nil
	},
}

var noInit = &analysis.Analyzer{
	Name: "noinit",
	Doc:  "no init functions",
	Run: func(p *analysis.Pass) (any, error) {
		for _, f := range p.Files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					p.Reportf(fn.Pos(), "no init functions: build it in the daemon's wiring")
				}
			}
		}
		return nil, nil
	},
}
