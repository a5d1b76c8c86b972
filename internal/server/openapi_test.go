package server

import (
	"bytes"
	"encoding/json"
	goflag "flag" // a kind of parameter has the short name
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

var update = goflag.Bool("update", false, "write the generated documents instead of comparing them")

const documentPath = "../../docs/openapi.json"

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the Go types say; run: go test ./internal/server -update", path)
	}
}

func TestDocument(t *testing.T) {
	doc, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, documentPath, doc)
	parsed, err := openapi3.NewLoader().LoadFromData(doc)
	if err != nil {
		t.Fatal(err)
	}
	if !parsed.IsOpenAPI31OrLater() {
		t.Errorf("it is OpenAPI %s", parsed.OpenAPI)
	}
	if err := parsed.Validate(t.Context()); err != nil {
		t.Errorf("not a valid OpenAPI document: %v", err)
	}
}

// TestDocumentHoldsEveryRoute asks a parser that is not ours about each line of the table.
func TestDocumentHoldsEveryRoute(t *testing.T) {
	doc := parseDocument(t)
	routes := new(Server).routes()
	ids := map[string]string{}
	for _, r := range routes {
		method, path, _ := strings.Cut(r.pattern, " ")
		item := doc.Paths.Value(path)
		if item == nil || item.GetOperation(method) == nil {
			t.Errorf("%s is not in the document", r.pattern)
			continue
		}
		op := item.GetOperation(method)
		if other, twice := ids[op.OperationID]; twice {
			t.Errorf("%s and %s are both called %s", r.pattern, other, op.OperationID)
		}
		ids[op.OperationID] = r.pattern
		for _, p := range r.query {
			if q := op.Parameters.GetByInAndName("query", p.name); q == nil || q.Required != p.required || q.Description == "" {
				t.Errorf("%s: parameter %s is not described as it is", r.pattern, p.name)
			}
		}
		if a := r.action; a.request != nil {
			if op.RequestBody == nil {
				t.Errorf("%s: no request body", r.pattern)
				continue
			}
			holds(t, r.pattern+" request", a.request, op.RequestBody.Value.Content.Get("application/json").Schema)
		}
		for _, status := range append([]int{r.action.status}, r.action.others...) {
			answer := op.Responses.Status(status)
			if answer == nil {
				t.Errorf("%s: no answer %d", r.pattern, status)
				continue
			}
			if r.action.response != nil {
				media := r.action.media
				if media == "" {
					media = "application/json"
				}
				holds(t, r.pattern+" answer", r.action.response, answer.Value.Content.Get(media).Schema)
			}
		}
		if op.Responses.Default() == nil {
			t.Errorf("%s: no error answer", r.pattern)
		}
	}
	count := 0
	for _, item := range doc.Paths.Map() {
		count += len(item.Operations())
	}
	if count != len(routes) {
		t.Errorf("the document has %d operations, the table %d", count, len(routes))
	}
}

// holds compares a schema with what encoding/json makes of a value in which everything is set.
func holds(t *testing.T, where string, typ reflect.Type, schema *openapi3.SchemaRef) {
	t.Helper()
	v := reflect.New(typ).Elem()
	fill(v, 0)
	data, err := json.Marshal(v.Interface())
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	sameKeys(t, where, got, schema.Value)
}

// fill sets every field, pointer, list and map, two levels of a type within itself at most.
func fill(v reflect.Value, depth int) {
	if depth > 8 {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Interface: // api.Error.Cause, which is not on the wire
	}
}

func sameKeys(t *testing.T, where string, got any, schema *openapi3.Schema) {
	t.Helper()
	for _, s := range schema.AnyOf { // a field that may be null
		if s.Value.Type == nil || !s.Value.Type.Is("null") {
			schema = s.Value
		}
	}
	switch got := got.(type) {
	case map[string]any:
		if schema.AdditionalProperties.Schema != nil {
			return
		}
		for key, value := range got {
			p := schema.Properties[key]
			if p == nil {
				t.Errorf("%s: field %s is not in the document", where, key)
				continue
			}
			sameKeys(t, where+"."+key, value, p.Value)
		}
		for key := range schema.Properties {
			if _, ok := got[key]; !ok {
				t.Errorf("%s: the document has a field %s that is never sent", where, key)
			}
		}
	case []any:
		if schema.Items == nil {
			t.Errorf("%s is a list, and no list in the document", where)
			return
		}
		sameKeys(t, where+"[]", got[0], schema.Items.Value)
	case string:
		if !schema.Type.Is("string") {
			t.Errorf("%s is a string, and %v in the document", where, schema.Type)
		}
	case float64:
		if !schema.Type.Is("integer") && !schema.Type.Is("number") {
			t.Errorf("%s is a number, and %v in the document", where, schema.Type)
		}
	case bool:
		if !schema.Type.Is("boolean") {
			t.Errorf("%s is a boolean, and %v in the document", where, schema.Type)
		}
	}
}

func parseDocument(t *testing.T) *openapi3.T {
	t.Helper()
	data, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(data)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestEveryFieldIsDescribed(t *testing.T) {
	doc := parseDocument(t)
	for name, s := range doc.Components.Schemas {
		if s.Value.Type.Is("string") && len(s.Value.Enum) == 0 {
			t.Errorf("%s has no values", name)
		}
		if s.Value.Description == "" && name != "ErrorBody" {
			t.Errorf("%s has no description: give its Go type a comment", name)
		}
	}
}
