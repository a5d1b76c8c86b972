package main

import (
	"go/ast"
	"strconv"
	"strings"

	"github.com/kisielk/errcheck/errcheck"
	"golang.org/x/tools/go/analysis"
)

// errChecker is errcheck without the calls where nobody could act on the error: a deferred
// Close (whoever writes a file closes it in plain sight and looks) or clean-up of a temporary file, a Close of anything but a
// file (a connection that is given up), a Close on the way out with another error, and fmt.Fprint to the writer that a command was given.
func errChecker() *analysis.Analyzer {
	a := errcheck.Analyzer
	run := a.Run
	a.Run = func(p *analysis.Pass) (any, error) {
		fine := make(map[string]bool)
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BlockStmt:
					for i := range len(n.List) - 1 {
						if c, ok := n.List[i].(*ast.ExprStmt); ok && failing(n.List[i+1]) {
							if call, ok := c.X.(*ast.CallExpr); ok && calls(call, "Close") {
								fine[line(p, c)] = true
							}
						}
					}
				case *ast.GoStmt:
					if calls(n.Call, "Close") && !onFile(p, n.Call) {
						fine[line(p, n)] = true
					}
				case *ast.DeferStmt:
					if calls(n.Call, "Close") || calls(n.Call, "os.Remove") {
						fine[line(p, n)] = true
					}
				case *ast.ExprStmt:
					call, ok := n.X.(*ast.CallExpr)
					if ok && (calls(call, "fmt.Fprint") || calls(call, "Close") && !onFile(p, call)) {
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

// failing tells whether the statement returns an error that is there already.
func failing(s ast.Stmt) bool {
	r, ok := s.(*ast.ReturnStmt)
	if !ok || len(r.Results) == 0 {
		return false
	}
	id, ok := r.Results[len(r.Results)-1].(*ast.Ident)
	return !ok || id.Name != "nil"
}

// onFile tells whether the method is one of *os.File, where a failing Close may lose what was written.
func onFile(p *analysis.Pass, c *ast.CallExpr) bool {
	s, ok := c.Fun.(*ast.SelectorExpr)
	return ok && p.TypesInfo.TypeOf(s.X).String() == "*os.File"
}

// notInTests lets an analyser look at the code that ships only: a test asserts what it is
// about, and what it merely cleans up is checked by whatever comes after it.
func notInTests(a *analysis.Analyzer) *analysis.Analyzer {
	run := a.Run
	a.Run = func(p *analysis.Pass) (any, error) {
		report := p.Report
		p.Report = func(d analysis.Diagnostic) {
			if !inTest(p, d.Pos) {
				report(d)
			}
		}
		return run(p)
	}
	return a
}

// calls tells whether the call's function is the method what, or begins with what ("fmt.Fprint").
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
