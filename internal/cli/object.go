package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

// makeObject follows the making of an image or kernel, and prints its name and digest.
func (a *app) makeObject(ctx context.Context, kind string, begin func(context.Context, *client.Client) (api.Operation, error)) error {
	c, err := a.daemon()
	if err != nil {
		return err
	}
	op, err := a.operate(ctx, c, "", func(ctx context.Context) (api.Operation, error) { return begin(ctx, c) })
	if err != nil {
		return err
	}
	if a.json {
		var object any
		if kind == "image" {
			object, err = c.Image(ctx, op.Result)
		} else {
			object, err = c.Kernel(ctx, op.Result)
		}
		if err != nil {
			return err
		}
		return writeJSON(a.Out, object)
	}
	_, err = fmt.Fprintln(a.Out, op.Result)
	return err
}

// objectList is `image list` and `kernel list`.
type objectList[T any] struct {
	kind string
	list func(*client.Client, context.Context) ([]T, error)
	listing[T]
}

func (l objectList[T]) command(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "list [flags]", Aliases: []string{"ls"}, Short: "list " + l.kind + "s", Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			objects, err := l.list(c, cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(objects, func(x, y T) int { return cmp.Compare(l.row(a, x)[0], l.row(a, y)[0]) })
			return l.print(a, objects, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only digests")
	return cmd
}

func newObjectShowCmd(a *app, kind string, complete completer, get func(context.Context, *client.Client, string) (any, *fields, error)) *cobra.Command {
	return &cobra.Command{
		Use: "show " + strings.ToUpper(kind) + "...", Aliases: []string{"inspect"}, Short: "show all about " + kind + "s",
		Args: needObjects(kind), ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			return showEach(cmd.Context(), a, args, "", func(ctx context.Context, name string) (any, *fields, error) { return get(ctx, c, name) })
		},
	}
}

func newObjectDeleteCmd(a *app, kind string, complete completer, get func(context.Context, *client.Client, string) (any, *fields, error), remove func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: "delete " + strings.ToUpper(kind) + "...", Aliases: []string{"rm"}, Short: "delete " + kind + "s that no VM uses",
		Args: needObjects(kind), ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inTurn(args, func(c *client.Client, name string) (gone any, err error) {
				if a.json {
					if gone, _, err = get(cmd.Context(), c, name); err != nil {
						return nil, err
					}
				}
				return gone, remove(c, cmd.Context(), name)
			})
		},
	}
}

func needObjects(kind string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 || slices.Contains(args, "") {
			return api.Errorf(api.CodeInvalid, "%s needs the name or digest of at least one %s", cmd.CommandPath(), kind).
				WithHint("banger %s list lists them; usage: %s", kind, cmd.UseLine())
		}
		return nil
	}
}
