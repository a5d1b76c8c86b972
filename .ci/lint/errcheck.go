package main

import (
	"go/ast"
	"strconv"
	"strings"

	"github.com/kisielk/errcheck/errcheck"
	"golang.org/x/tools/go/analysis"
)

// errChecker is errcheck without two kinds of call where nobody could act on the error:
// a deferred Close (whoever writes a file closes it in plain sight and looks), and
// fmt.Fprint to the writer that a command was given.
func errChecker() *analysis.Analyzer {
	a := errcheck.Analyzer
	run := a.Run
	a.Run = func(p *analysis.Pass) (any, error) {
		fine := make(map[string]bool)
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.DeferStmt:
					if calls(n.Call, "Close") {
						fine[line(p, n)] = true
					}
				case *ast.ExprStmt:
					if call, ok := n.X.(*ast.CallExpr); ok && calls(call, "fmt.Fprint") {
						fine[line(p, n)] = true
					}
				}
				return true
			})
		}
		report := p.Report
		p.Report = func(d analysis.Diagnostic) {
			if at := p.Fset.Position(d.Pos); !fine[key(at.Filename, at.Line)] {
				report(d)
			}
		}
		return run(p)
	}
	return a
}

// calls tells whether the call's function ends in ".Close", or begins with "fmt.Fprint".
func calls(c *ast.CallExpr, what string) bool {
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if pkg, ok := s.X.(*ast.Ident); ok && strings.HasPrefix(pkg.Name+"."+s.Sel.Name, what) {
		return true
	}
	return s.Sel.Name == what
}

func line(p *analysis.Pass, n ast.Node) string {
	at := p.Fset.Position(n.Pos())
	return key(at.Filename, at.Line)
}

func key(file string, line int) string { return file + ":" + strconv.Itoa(line) }
