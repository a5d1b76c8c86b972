package verb

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/privileges.md anew")

// TestDocument holds the page to the list.
func TestDocument(t *testing.T) {
	const path, begin, end = "../../../docs/privileges.md", "<!-- verbs -->\n", "<!-- /verbs -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	var want strings.Builder
	want.WriteString("| verb | does | gate |\n|---|---|---|\n")
	for _, e := range Table() {
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", e.Verb, e.Does, e.Gate)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+begin+want.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want.String() {
		t.Errorf("%s has another table (go test ./internal/host/verb -update writes it); want:\n%s", path, want.String())
	}
}
