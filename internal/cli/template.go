package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

func newTemplateCmd(a *app) *cobra.Command {
	cmd := group("template", "list, build and remove templates: frozen machines that starts are thawed from")
	cmd.AddCommand(newTemplateBuildCmd(a), newTemplatePruneCmd(a),
		objectList[api.Template]{kind: "template", list: (*client.Client).Templates, listing: listing[api.Template]{heading: []string{"ID", "IMAGE", "CPUS", "MEMORY", "NET", "USED", "BUILT IN", "CREATED", "STATE"}, row: func(a *app, t api.Template) []string {
			state := "good"
			if t.Discarded != "" {
				state = "in use only"
			}
			return []string{t.ID, t.Image, fmt.Sprint(t.CPUs), config.FormatSize(t.MemoryBytes), string(t.Net), config.FormatSize(t.UsedBytes), seconds(t.BuildMS), a.ago(t.CreatedAt), state}
		}, word: func(t api.Template) string { return t.ID }}}.command(a),
		newTemplateDeleteCmd(a))
	return cmd
}

func newTemplateDeleteCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete TEMPLATE...", Aliases: []string{"rm"}, Short: "delete templates; one that is in use goes with the last VM on it",
		Args: needObjects("template"), ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inTurn(args, func(c *client.Client, id string) (any, error) { return c.DeleteTemplate(cmd.Context(), id) })
		},
	}
}

func seconds(ms int64) string { return fmt.Sprintf("%.1fs", float64(ms)/1000) }

func newTemplateBuildCmd(a *app) *cobra.Command {
	o := &specOptions{}
	cmd := &cobra.Command{
		Use: "build [flags]", Short: "build the template of such VMs ahead", Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			create, err := o.request(a, cmd)
			if err != nil {
				return err
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			op, err := a.operate(cmd.Context(), c, "", func(ctx context.Context) (api.Operation, error) {
				return c.BuildTemplate(ctx, api.TemplateBuild{Spec: create.Spec})
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, op.Result)
			return err
		},
	}
	o.shapeFlags(a, cmd)
	return cmd
}

func newTemplatePruneCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "prune", Short: "remove all templates that no VM lies on", Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			gone, err := c.PruneTemplates(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Out, gone)
			}
			for _, t := range gone {
				fmt.Fprintln(a.Out, t.ID)
			}
			return nil
		},
	}
}
