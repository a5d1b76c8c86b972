package server

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestDescriptions holds descriptions.json to the comments in package api.
func TestDescriptions(t *testing.T) {
	d := descriptions{Docs: map[string]string{}, Enums: map[string][]string{}}
	files, err := filepath.Glob("../../api/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("cannot find the sources of api: ", err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if g, ok := decl.(*ast.GenDecl); ok {
				d.add(g)
			}
		}
	}
	for _, values := range d.Enums {
		slices.Sort(values)
	}
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "descriptions.json", append(data, '\n'))
}

func (d descriptions) add(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			d.Docs[s.Name.Name] = sentence(g.Doc, s.Doc, s.Comment)
			if st, ok := s.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						if text := sentence(f.Doc, f.Comment); text != "" {
							d.Docs[s.Name.Name+"."+name.Name] = text
						}
					}
				}
			}
		case *ast.ValueSpec:
			typ, named := s.Type.(*ast.Ident)
			if !named || g.Tok != token.CONST {
				continue
			}
			for _, v := range s.Values {
				if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if text, err := strconv.Unquote(lit.Value); err == nil {
						d.Enums[typ.Name] = append(d.Enums[typ.Name], text)
					}
				}
			}
		}
	}
}

// sentence joins the comments; a drawing keeps its lines, prose does not.
func sentence(groups ...*ast.CommentGroup) string {
	var parts []string
	for _, g := range groups {
		text := strings.TrimSpace(g.Text())
		if !strings.Contains(text, "\n\t") {
			text = strings.Join(strings.Fields(text), " ")
		}
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, " ")
}
