package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandHasAScript walks the tree: each command is run by a scenario script.
func TestEveryCommandHasAScript(t *testing.T) {
	root := testRoot(t)
	run := make(map[string]bool)
	files, err := filepath.Glob("../../test/scripts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		script, _, _ := strings.Cut(string(data), "\n-- ")
		for line := range strings.Lines(script) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			for _, rest := range strings.Split(line, "banger ")[1:] {
				if cmd, _, err := root.Find(strings.Fields(rest)); err == nil {
					run[canonical(cmd)] = true
				}
			}
		}
	}
	walk(root, func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() && !run[canonical(cmd)] {
			t.Errorf("no script in test/scripts runs %s", cmd.CommandPath())
		}
	})
}

// canonical is the command's path, without the `vm` that may be left out.
func canonical(cmd *cobra.Command) string {
	return strings.Replace(cmd.CommandPath(), "banger vm ", "banger ", 1)
}
