package cli

import "github.com/spf13/cobra"

func newShellCmd(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:               "shell [flags] VM",
		Short:             "open a shell in a running VM",
		Long:              "Open the user's login shell in a running VM. On a terminal this implies -it. It needs\nneither network nor ssh in the guest.",
		Args:              needOne("the name or id of a VM", "banger ps lists them"),
		ValidArgsFunction: a.completeRunningOne,
		Annotations:       map[string]string{failsWith125: "yes"},
		RunE: func(_ *cobra.Command, args []string) error {
			// A shell without input would end at once; somebody who pipes one a script means it.
			o.interactive = true
			o.tty = o.tty || a.onTerminal()
			spec, err := o.spec(a, nil)
			if err != nil {
				return err
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			code, err := a.exec(c, ref(args[0]), spec)
			if err != nil {
				return err
			}
			return exitWith(code)
		},
	}
	o.flags(cmd.Flags())
	return cmd
}
