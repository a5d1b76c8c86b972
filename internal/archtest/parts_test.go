package archtest

import (
	"go/ast"
	"regexp"
	"testing"
)

// mostMethods is how many methods a type of package vm may have. It once had one of 223, which everything went through.
const mostMethods = 40

// TestPartsKnowNoWhole: a part of package vm that holds the Service has not been split from it.
func TestPartsKnowNoWhole(t *testing.T) {
	methods := map[string]int{}
	made := map[string]bool{}
	doc := ""
	eachFile(t, func(pkg, file string, f *ast.File) {
		if pkg != "internal/vm" {
			return
		}
		if f.Doc != nil {
			doc += f.Doc.Text()
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil {
					methods[receiver(n)]++
				}
			case *ast.SelectorExpr: // another package's
				return false
			case *ast.Ident:
				if n.Name == "Service" && file != "internal/vm/service.go" && file != "internal/vm/wire.go" {
					t.Errorf("%s names Service: a part is given the parts or the functions that it needs", file)
				}
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && file == "internal/vm/wire.go" {
					made[id.Name] = true
				}
			}
			return true
		})
	})
	for name, n := range methods {
		if n > mostMethods {
			t.Errorf("%s has %d methods: what of it is a noun of its own?", name, n)
		}
	}
	for name := range made {
		if name != "Service" && name != "handleCache" && !regexp.MustCompile(`\b`+name+`\b`).MatchString(doc) {
			t.Errorf("the doc of package vm does not say what part %s is", name)
		}
	}
	if len(made) == 0 || len(methods) == 0 {
		t.Error("no parts found: has New moved?")
	}
}

func receiver(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}
