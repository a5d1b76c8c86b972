package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/api"
)

// newRoot builds the whole tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Short: "real Linux machines, as fast as containers",
		Long: `banger gives you a real Linux machine (own kernel, own root, own address) from one
command, and takes it away without a trace.

  banger run                             a new machine, and a shell in it
  banger run --rm -- cat /etc/hostname   one command in a machine that goes away after it
  banger ps                              what runs
  banger exec NAME -- COMMAND            a command in a machine that runs`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON instead of text: lists are arrays, streams an object a line")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: "vm", Title: "Virtual machines (each also as `banger vm ...`):"},
		&cobra.Group{ID: "object", Title: "Images and kernels:"},
		&cobra.Group{ID: "system", Title: "The daemon and this host:"},
	)
	vm := group("vm", "create, run, use and remove virtual machines")
	vm.GroupID = "system"
	for _, make := range vmCommands() {
		under := make(a)
		vm.AddCommand(under)
		top := make(a)
		top.GroupID = "vm"
		root.AddCommand(top)
	}
	for _, cmd := range []*cobra.Command{newImageCmd(a), newKernelCmd(a), newTemplateCmd(a)} {
		cmd.GroupID = "object"
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{
		vm, newDaemonCmd(a), newDoctorCmd(a), newInfoCmd(a), newConfigCmd(a), newOperationCmd(a), newEventsCmd(a), newSystemCmd(a),
		newSSHConfigCmd(a), newVersionCmd(a), newCompletionCmd(a),
	} {
		cmd.GroupID = "system"
		root.AddCommand(cmd)
	}
	root.AddCommand(newSSHProxyCmd(a))
	return root
}

// vmCommands are the commands that stand both below `vm` and at the top.
func vmCommands() []func(*app) *cobra.Command {
	return []func(*app) *cobra.Command{
		newRunCmd, newCreateCmd, newStartCmd, newStopCmd, newRestartCmd, newKillCmd, newDeleteCmd, newListCmd, newShowCmd,
		newSetCmd, newStatsCmd, newLogsCmd, newPortsCmd, newSSHCmd, newShellCmd, newExecCmd, newCpCmd, newPortForwardCmd,
		newForkCmd, newSuspendCmd, newPauseCmd, newUnpauseCmd, newSnapshotCmd, newWorkspaceCmd, newSyncCmd, newSessionCmd, newResetCmd, newPruneCmd, newWaitCmd, newSignalCmd,
	}
}

// group is a command that only has others below it.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}

func unknownCommand(cmd *cobra.Command, word string) error {
	e := api.Errorf(api.CodeInvalid, "there is no command %q", cmd.CommandPath()+" "+word)
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		return e.WithHint("%s %s", cmd.CommandPath(), near[0])
	}
	return e.WithHint("%s --help", cmd.CommandPath())
}

// flagError turns what the flag parser says into one sentence and a hint.
func flagError(cmd *cobra.Command, err error) error {
	if said := (*api.Error)(nil); errors.As(err, &said) { // it says all by itself
		return said
	}
	text := err.Error()
	if bad := (*pflag.InvalidValueError)(nil); errors.As(err, &bad) {
		text = fmt.Sprintf("--%s: %v", bad.GetFlag().Name, errors.Unwrap(bad))
		if errors.Unwrap(bad) == nil {
			text = fmt.Sprintf("--%s: %q makes no sense", bad.GetFlag().Name, bad.GetValue())
		}
	}
	e := api.Errorf(api.CodeInvalid, "%s: %s", cmd.CommandPath(), text)
	if cmd.Annotations[takesCommand] != "" && strings.HasPrefix(text, "unknown") {
		return e.WithHint("put -- before the guest's command: %s", cmd.UseLine())
	}
	return e.WithHint("%s --help", cmd.CommandPath())
}
