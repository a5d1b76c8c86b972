package cli

import "github.com/spf13/cobra"

func newCreateCmd(a *app) *cobra.Command {
	var o specOptions
	cmd := &cobra.Command{
		Use:               "create [flags]",
		Short:             "create a VM without starting it",
		Long:              "Create a VM without starting it, and print its name.",
		Args:              needNone,
		ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			git := a.gitIdentity(cmd.Context())
			create, err := o.request(a, cmd)
			if err != nil {
				return err
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			create.Git = git()
			vm, err := a.createVM(cmd.Context(), c, create, nil)
			if err != nil {
				return err
			}
			return a.printVM(cmd.Context(), c, vm)
		},
	}
	o.flags(a, cmd)
	cmd.Flags().BoolVar(&o.autoRemove, "rm", false, "delete the VM when its main command has ended or it has stopped")
	return cmd
}
