package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
)

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "show the version of banger, and of the daemon if it runs",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
				// Daemon is empty if none runs.
				Daemon string `json:"daemon"`
			}{Version: api.Version}
			if c, err := a.runningDaemon(); err == nil {
				if info, err := c.Info(cmd.Context()); err == nil {
					v.Daemon = info.Version
				}
			}
			if a.json {
				return writeJSON(a.Out, v)
			}
			if _, err := fmt.Fprintln(a.Out, "banger "+v.Version); err != nil || v.Daemon == "" {
				return err
			}
			_, err := fmt.Fprintln(a.Out, "bangerd "+v.Daemon)
			return err
		},
	}
}
