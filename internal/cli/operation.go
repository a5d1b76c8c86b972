package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

func newOperationCmd(a *app) *cobra.Command {
	cmd := group("operation", "look at the daemon's work and cancel it")
	cmd.AddCommand(newOperationListCmd(a), newOperationShowCmd(a), newOperationCancelCmd(a))
	return cmd
}

func newOperationListCmd(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "list [flags]", Aliases: []string{"ls"}, Short: "list operations: those that run, or all that are remembered with -a",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			ops, err := c.Operations(cmd.Context())
			if err != nil {
				return err
			}
			if !all {
				ops = slices.DeleteFunc(ops, func(o api.Operation) bool { return o.State != api.OperationRunning })
			}
			if a.json {
				return writeJSON(a.Out, append([]api.Operation{}, ops...))
			}
			t := newTable("ID", "KIND", "STATE", "VM", "STEP", "TOOK", "BEGUN")
			for _, o := range ops {
				step := ""
				if len(o.Steps) > 0 {
					step = o.Steps[len(o.Steps)-1].Name
				}
				t.add(o.ID, o.Kind, string(o.State), o.VMID, step, config.FormatDuration(a.took(o)), a.ago(o.StartedAt))
			}
			return t.write(a.Out)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that have ended too")
	return cmd
}

func (a *app) took(o api.Operation) time.Duration {
	if o.EndedAt != nil {
		return o.EndedAt.Sub(o.StartedAt)
	}
	return a.now().Sub(o.StartedAt)
}

func newOperationShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show OPERATION...", Aliases: []string{"inspect"}, Short: "show operations with their steps",
		Args: needOperations, ValidArgsFunction: a.completeOperations,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			return showEach(cmd.Context(), a, args, "", func(ctx context.Context, id string) (any, *fields, error) {
				o, err := c.Operation(ctx, id)
				return o, operationFields(a, o), err
			})
		},
	}
}

func operationFields(a *app, o api.Operation) *fields {
	f := &fields{}
	f.add("id", o.ID)
	f.add("kind", o.Kind)
	f.add("state", string(o.State))
	f.add("vm", o.VMID)
	f.add("begun", a.ago(o.StartedAt))
	f.add("took", config.FormatDuration(a.took(o)))
	for _, s := range o.Steps {
		took := "running"
		if s.EndedAt != nil {
			took = milliseconds(s.DurationMS)
		}
		f.add("step", fmt.Sprintf("%-28s %s%s", s.Name, took, amount(s)))
	}
	for _, w := range o.Warnings {
		f.add("note", w)
	}
	f.add("result", o.Result)
	if o.Error != nil {
		f.add("error", strings.TrimSpace(o.Error.Message))
	}
	return f
}

func newOperationCancelCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "cancel OPERATION...", Short: "cancel operations and wait until they are undone",
		Args: needOperations, ValidArgsFunction: a.completeOperations,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inTurn(args, func(c *client.Client, id string) (any, error) {
				if _, err := c.CancelOperation(cmd.Context(), id); err != nil {
					return nil, err
				}
				o, err := c.WatchOperation(cmd.Context(), id, nil)
				if err == nil && (o.State == api.OperationDone || o.State == api.OperationFailed) {
					err = api.Errorf(api.CodeConflict, "operation %s had ended already: %s", id, o.State).WithHint("banger operation show %s", id)
				}
				return o, err
			})
		},
	}
}

func needOperations(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || slices.Contains(args, "") {
		return api.Errorf(api.CodeInvalid, "%s needs the id of at least one operation", cmd.CommandPath()).WithHint("banger operation list -a")
	}
	return nil
}
