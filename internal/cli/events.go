package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

func newEventsCmd(a *app) *cobra.Command {
	var follow bool
	var after int64
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "show what has happened to VMs, images and kernels",
		Long: `Show what has happened to VMs, images and kernels, the oldest first. Each event has a
cursor that only grows; --after goes on behind one that was seen, over restarts of the daemon too.`,
		Args:              needNone,
		ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if after < 0 {
				return api.Errorf(api.CodeInvalid, "--after is %d: give the cursor of an event, or 0", after)
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			return a.resuming(cmd.Context(), func() (bool, error) {
				before := after
				err := c.Events(cmd.Context(), after, follow, func(e api.Event) error {
					after = e.Cursor
					return printEvent(a, e)
				})
				return after > before, err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until Ctrl-C")
	cmd.Flags().Int64Var(&after, "after", 0, "only events behind this `CURSOR`")
	return cmd
}

func printEvent(a *app, e api.Event) error {
	if a.json {
		return writeJSONLine(a.Out, e)
	}
	var data strings.Builder
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		fmt.Fprintf(&data, "  %s=%s", k, printable(e.Data[k]))
	}
	_, err := fmt.Fprintf(a.Out, "%6d  %s  %-14s  %s  %s%s\n", e.Cursor, e.At.Format(time.RFC3339), e.Kind, orDash(e.VMID), printable(orDash(e.Name)), data.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
