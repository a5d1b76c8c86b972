package cli

import (
	"github.com/spf13/cobra"

	"banger/api"
)

func newExecCmd(a *app) *cobra.Command {
	var o execOptions
	var sync bool
	cmd := &cobra.Command{
		Use:   "exec [flags] VM -- COMMAND [ARG...]",
		Short: "run a command in a running VM",
		Long: `Run a command in a running VM, with its exit code as banger's. The arguments reach it
as they are, never through a shell. It gets standard input only with -i.

Where a repository was brought into the VM and has moved on here since, exec says so.

exec returns when the command has ended; what it left running in the background lives on.
With --json it prints {exit_code, signal, timed_out, stdout, stderr, truncated, duration_ms}.`,
		Example: `  banger exec web -- systemctl status ssh
  banger exec -it web -- bash
  banger exec -i db -- psql < dump.sql`,
		Args:              needCommand,
		ValidArgsFunction: a.completeRunningOne,
		Annotations:       map[string]string{takesCommand: "yes", failsWith125: "yes"},
		RunE: func(_ *cobra.Command, args []string) error {
			spec, err := o.spec(a, args[1:])
			if err != nil {
				return err
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			tell := func() {}
			if sync {
				err = a.syncWorkspaces(a.soft, c, ref(args[0]), o.workdir)
			} else {
				tell = a.watchWorkspaces(c, ref(args[0]), o.workdir)
			}
			if err != nil {
				return err
			}
			code, err := a.exec(c, ref(args[0]), spec)
			tell()
			if err != nil {
				return err
			}
			return exitWith(code)
		},
	}
	o.flags(cmd.Flags())
	cmd.Flags().BoolVar(&sync, "sync", false, "first bring the VM's repositories again, where nothing was done in the guest since (see workspace prepare)")
	return cmd
}

// needCommand wants VM [--] COMMAND...
func needCommand(cmd *cobra.Command, args []string) error {
	usage := "usage: " + cmd.UseLine()
	if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
		return api.Errorf(api.CodeInvalid, "%s needs the name or id of a VM", cmd.CommandPath()).WithHint("banger ps lists them; %s", usage)
	}
	if dash := cmd.ArgsLenAtDash(); dash > 1 {
		return api.Errorf(api.CodeInvalid, "%q stands between the VM and --", args[1]).WithHint("%s", usage)
	}
	if len(args) == 1 {
		return api.Errorf(api.CodeInvalid, "%s needs a command", cmd.CommandPath()).WithHint("banger shell %s opens a shell; %s", args[0], usage)
	}
	return nil
}
