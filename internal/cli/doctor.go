package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func newDoctorCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "check this host and say what would mend it",
		Long: "Check this host without changing anything. Exit code 1 if something makes VMs impossible.",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			checks, err := c.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			if len(cfg.UnknownEnv) > 0 {
				checks = append(checks, api.Check{Name: "environment", Verdict: api.VerdictWarn,
					Detail: strings.Join(cfg.UnknownEnv, ", ") + ": banger knows no such variable", Hint: "banger config show lists those it knows"})
			}
			if a.json {
				err = writeJSON(a.Out, append([]api.Check{}, checks...))
			} else {
				err = printChecks(a, checks)
			}
			if err == nil && slices.ContainsFunc(checks, func(c api.Check) bool { return c.Verdict == api.VerdictFail }) {
				return exitWith(exitFailure)
			}
			return err
		},
	}
}

func printChecks(a *app, checks []api.Check) error {
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name))
	}
	for _, c := range checks {
		if _, err := fmt.Fprintf(a.Out, "%-4s  %-*s  %s\n", c.Verdict, width, printable(c.Name), printable(c.Detail)); err != nil {
			return err
		}
		if c.Hint != "" && c.Verdict != api.VerdictOK {
			fmt.Fprintf(a.Out, "      %-*s  -> %s\n", width, "", printable(c.Hint))
		}
	}
	return nil
}
