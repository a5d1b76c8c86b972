package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/client"
)

// listing is how nouns are printed: a row each; with -q a word each, which other commands take; with --json all of them.
type listing[T any] struct {
	heading []string
	row     func(*app, T) []string
	word    func(T) string
}

func (l listing[T]) print(a *app, nouns []T, quiet bool) error {
	switch {
	case quiet:
		for _, n := range nouns {
			if _, err := fmt.Fprintln(a.Out, l.word(n)); err != nil {
				return err
			}
		}
		return nil
	case a.json:
		return writeJSON(a.Out, append([]T{}, nouns...)) // [] rather than null
	}
	t := newTable(l.heading...)
	for _, n := range nouns {
		t.add(l.row(a, n)...)
	}
	return t.write(a.Out)
}

// ofVMs is `session list` and `snapshot list`: what belongs to one VM, or to all.
type ofVMs[T any] struct {
	listing[T]
	kind     string
	complete completer
	list     func(*client.Client, context.Context, string) ([]T, error)
}

func (l ofVMs[T]) command(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "list [flags] [VM]", Aliases: []string{"ls"}, Short: "list the " + l.kind + "s of a VM, or of all",
		Args: between(0, 1, "at most one VM"), ValidArgsFunction: l.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			vm := ""
			if len(args) > 0 {
				vm = ref(args[0])
			}
			nouns, err := l.list(c, cmd.Context(), vm)
			if err != nil {
				return err
			}
			return l.print(a, nouns, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only VM/NAME")
	return cmd
}
