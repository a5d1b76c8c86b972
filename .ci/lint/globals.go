package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
)

// noMutableGlobals finds package variables that the package changes, takes the address of, or
// that are made for changing (locks, atomics). Tables, errors and patterns, which are set once
// at their declaration, are fine; so is what -ldflags sets in package main.
var noMutableGlobals = &analysis.Analyzer{
	Name: "globals",
	Doc:  "no mutable package variables",
	Run: func(p *analysis.Pass) (any, error) {
		check := func(e ast.Expr, how string) {
			if v := globalAt(p, e); v != nil && !inTest(p, e.Pos()) {
				p.Reportf(e.Pos(), "package variable %s is %s: put it into a struct that is handed in", v.Name(), how)
			}
		}
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.AssignStmt:
					if n.Tok != token.DEFINE {
						for _, l := range n.Lhs {
							check(l, "assigned to")
						}
					}
				case *ast.IncDecStmt:
					check(n.X, "changed")
				case *ast.UnaryExpr:
					if n.Op == token.AND {
						check(n.X, "passed by its address")
					}
				case *ast.CallExpr:
					if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && (id.Name == "delete" || id.Name == "clear") {
						check(n.Args[0], "changed")
					}
				case *ast.ValueSpec:
					for _, name := range n.Names {
						v, ok := p.TypesInfo.Defs[name].(*types.Var)
						if ok && v.Parent() == p.Pkg.Scope() && changing(v.Type()) && !inTest(p, name.Pos()) {
							p.Reportf(name.Pos(), "package variable %s is made for changing: put it into a struct that is handed in", v.Name())
						}
					}
				}
				return true
			})
		}
		return nil, nil
	},
}

// globalAt finds the package variable of this package that x, x.f, x[i] or *x begins with.
func globalAt(p *analysis.Pass, e ast.Expr) *types.Var {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			v, ok := p.TypesInfo.Uses[x].(*types.Var)
			if ok && v.Parent() == p.Pkg.Scope() {
				return v
			}
			return nil
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

func changing(t types.Type) bool {
	s := t.String()
	return strings.HasPrefix(s, "sync.") || strings.HasPrefix(s, "sync/atomic.")
}

func inTest(p *analysis.Pass, pos token.Pos) bool {
	return strings.HasSuffix(p.Fset.Position(pos).Filename, "_test.go")
}
