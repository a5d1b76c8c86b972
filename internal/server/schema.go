package server

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// descriptions.json holds what the comments in api say of its types and fields, and the
// constants of its string types. TestDescriptions writes it with -update.
//
//go:embed descriptions.json
var descriptionsJSON []byte

// descriptions are keyed by "Type" and "Type.Field".
type descriptions struct {
	Docs  map[string]string   `json:"docs"`
	Enums map[string][]string `json:"enums"`
}

func loadDescriptions() (descriptions, error) {
	var d descriptions
	if err := json.Unmarshal(descriptionsJSON, &d); err != nil {
		return d, fmt.Errorf("cannot read descriptions.json: %w", err)
	}
	return d, nil
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// schemas collects the schema of each named type that is met.
type schemas struct {
	words descriptions
	// done is components/schemas.
	done object
	// requests are types that callers send; in these no field is required.
	requests map[reflect.Type]bool
}

// of is the schema of a type; a named one is put into done and referred to.
func (b *schemas) of(t reflect.Type) object {
	switch t {
	case typeOf[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case typeOf[[]byte]():
		return object{"type": "string", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return object{"anyOf": []object{b.of(t.Elem()), {"type": "null"}}}
	case reflect.Slice:
		return object{"type": "array", "items": b.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": b.of(t.Elem())}
	case reflect.Struct:
		return b.named(t, b.structure)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return object{"type": "integer", "format": "int64"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		if t.PkgPath() == "" {
			return object{"type": "string"}
		}
		return b.named(t, func(reflect.Type) object {
			return object{"type": "string", "enum": b.words.Enums[t.Name()]}
		})
	}
	panic("no schema for " + t.String()) // a new kind of field in api: TestDocument finds it
}

func (b *schemas) named(t reflect.Type, schema func(reflect.Type) object) object {
	name := t.Name()
	if _, ok := b.done[name]; !ok {
		b.done[name] = nil // holds the place while the type refers to itself
		s := schema(t)
		if doc := b.words.Docs[name]; doc != "" {
			s["description"] = doc
		}
		b.done[name] = s
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func (b *schemas) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	for f := range jsonFields(t) {
		s := b.of(f.Type)
		if doc := b.words.Docs[t.Name()+"."+f.Name]; doc != "" {
			s["description"] = doc
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		properties[name] = s
		if !strings.Contains(options, "omitempty") {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "properties": properties}
	if !b.requests[t] && len(required) > 0 {
		out["required"] = required
	}
	return out
}

func jsonFields(t reflect.Type) func(func(reflect.StructField) bool) {
	return slices.Values(slices.DeleteFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool {
		return !f.IsExported() || f.Tag.Get("json") == "-"
	}))
}

// requestTypes are all types within the bodies that routes read.
func requestTypes(routes []route) map[reflect.Type]bool {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(t reflect.Type) {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(t.Elem())
		case reflect.Struct:
			if !seen[t] && t != typeOf[time.Time]() {
				seen[t] = true
				for f := range jsonFields(t) {
					walk(f.Type)
				}
			}
		}
	}
	for _, r := range routes {
		if r.action.request != nil {
			walk(r.action.request)
		}
	}
	return seen
}
