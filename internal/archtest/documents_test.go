package archtest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"banger/api"
)

var update = flag.Bool("update", false, "write the generated documents instead of comparing them")

// TestErrorsDocument holds docs/errors.md to the table of codes.
func TestErrorsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Errors

Generated from the table in api/error.go by ` + "`make generate`" + `; do not edit.

Every answer that is no success is ` + "`{\"error\": {code, message, hint, retryable, operation_id}}`" + `. The code
is one of these and decides the HTTP status; the message is one sentence for people and may
change; the hint is a command where one exists. Where the same request may succeed later,
unchanged, retryable is true. The daemon's log tells the rest under the operation's id.

| code | HTTP | retryable | meaning |
|---|---|---|---|
`)
	codes := api.Codes()
	for _, c := range slices.SortedFunc(maps.Keys(codes), func(a, b api.Code) int { return strings.Compare(string(a), string(b)) }) {
		fmt.Fprintf(&b, "| `%s` | %d | %v | %s |\n", c, c.Status(), c.Retryable(), codes[c])
	}
	b.WriteString(`
On the command line a failure of banger's own ends with exit code 1, or with 125 where any other
code would be the guest's (` + "`run`, `exec`, `shell`, `ssh`, `wait`" + `); 124 is a time-out.
`)
	const path = "../../docs/errors.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is stale: make generate", path)
	}
}

// TestLinksLead: a document that points to a file that is gone is worse than none.
func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile("../../" + doc)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat("../../" + m[1]); err != nil {
				t.Errorf("%s points to %s, which is not there", doc, m[1])
			}
		}
	}
}

// TestREADMELength: 50 to 110 lines, or nobody reads it to the end.
func TestREADMELength(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n < 50 || n > 110 {
		t.Errorf("README.md has %d lines", n)
	}
}

// TestArchitecturePathsExist: the map names folders as `internal/x`; each must be there, and
// each package of ours must be on the map.
func TestArchitecturePathsExist(t *testing.T) {
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`((?:internal|cmd|api|client|test|scripts|docs)/[A-Za-z0-9_./-]*)`").FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat("../../" + strings.TrimSuffix(m[1], "/...")); err != nil {
			t.Errorf("ARCHITECTURE.md names %s, which is not there", m[1])
		}
	}
	for _, p := range packages(t) {
		pkg, _ := local(p.ImportPath)
		parts := strings.Split(pkg, "/")
		name := strings.Join(parts[:min(2, len(parts))], "/")
		if parts[0] == "internal" && len(p.GoFiles) > 0 && !strings.Contains(string(text), "`"+name) {
			t.Errorf("ARCHITECTURE.md does not name %s", name)
		}
	}
}
