package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the generated documents again")

//go:generate go test . -run ^TestReference$ -update

const referencePath = "../../docs/cli.md"

// testRoot is the tree of commands as a person sees it.
func testRoot(t *testing.T) *cobra.Command {
	t.Helper()
	a, stop := newApp(context.Background(), IO{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}})
	t.Cleanup(stop)
	root := newRoot(a)
	root.InitDefaultHelpCmd()
	root.InitDefaultHelpFlag()
	return root
}

// TestReference holds docs/cli.md to the commands that there are.
func TestReference(t *testing.T) {
	got := reference(testRoot(t))
	if *update {
		if err := os.WriteFile(referencePath, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the commands say: run make generate", referencePath)
	}
}

// TestEveryCommandIsDescribed: what a person reads first is there, and in one voice.
func TestEveryCommandIsDescribed(t *testing.T) {
	walk(testRoot(t), func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.Short != strings.TrimSpace(cmd.Short) {
			t.Errorf("%s: short description %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Args == nil && cmd.ValidArgsFunction == nil && cmd.Name() != "help" {
			t.Errorf("%s: says nothing about its positionals", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s: no description", cmd.CommandPath(), f.Name)
			}
		})
	})
}

func walk(cmd *cobra.Command, fn func(*cobra.Command)) {
	fn(cmd)
	for _, child := range cmd.Commands() {
		walk(child, fn)
	}
}

// reference is docs/cli.md. Commands that stand both at the top and below `vm` are
// described once.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, g := range root.Groups() {
		fmt.Fprintf(&b, "\n## %s\n", strings.TrimSuffix(g.Title, ":"))
		for _, cmd := range root.Commands() {
			if cmd.GroupID != g.ID || cmd.Hidden {
				continue
			}
			if cmd.Name() == "vm" || !cmd.HasSubCommands() {
				describe(&b, cmd)
				continue
			}
			for _, child := range cmd.Commands() {
				describe(&b, child)
			}
		}
	}
	return b.String()
}

const referenceHead = `# The command line

This file is generated from the commands themselves (` + "`make generate`" + `); a test compares it.

Every command takes ` + "`--json`" + `: a list is an array, a single thing an object, a stream an object a line.
Errors are a sentence on stderr and, where something helps, a line that begins with "hint:".

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | banger's own failure |
| 124 | a time-out has passed: of the command in the guest, or of ` + "`wait`" + ` |
| 125 | banger's own failure in ` + "`run`, `exec`, `shell`, `ssh` and `wait`" + `, where any other code is the guest's |
| 126 | the guest's command cannot be executed |
| 127 | the guest has no such command |
| 128+n | ended by signal n |

A VM is named by its name, its id, or the beginning of its id. Sizes are written like 512M or 8G (binary units),
durations like 90s or 2m; a plain number is seconds.
`

func describe(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n", cmd.CommandPath(), firstUpper(cmd.Short)+".")
	if cmd.Name() == "vm" {
		return
	}
	fmt.Fprintf(b, "```\n%s\n```\n", cmd.UseLine())
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(b, "\nAlso: `%s`.\n", strings.Join(cmd.Aliases, "`, `"))
	}
	if cmd.Long != "" {
		fmt.Fprintf(b, "\n%s\n", cmd.Long)
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", unindent(cmd.Example))
	}
	first := true
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first {
			b.WriteString("\n| flag | |\n|---|---|\n")
			first = false
		}
		arg, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.TrimSpace(name+" "+arg), strings.ReplaceAll(usage, "|", "\\|"))
	})
}

func firstUpper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
