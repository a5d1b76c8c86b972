package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

// completer offers words for what is being typed.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

const noFiles = cobra.ShellCompDirectiveNoFileComp

// completeTime bounds a completion: a shell must not hang on a daemon that does.
const completeTime = 2 * time.Second

func newCompletionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "print the completion script for a shell",
		Long: `Print the completion script for a shell. It completes commands, flags, and the names of
VMs, images and kernels that there are.`,
		Example: `  banger completion bash > /etc/bash_completion.d/banger
  banger completion zsh > "${fpath[1]}/_banger"
  banger completion fish > ~/.config/fish/completions/banger.fish`,
		Args:              needOne("a shell", "bash, zsh or fish"),
		ValidArgsFunction: fixed("bash", "zsh", "fish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			}
			return api.Errorf(api.CodeInvalid, "there is no completion for %q", args[0]).WithHint("bash, zsh or fish")
		},
	}
}

// complete sets the completion of a flag.
func complete(cmd *cobra.Command, flag string, c completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, c); err != nil {
		panic(err) // the flag is not there: a defect that every test of the tree shows
	}
}

func nothing(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, noFiles
}

// directories offers the directories of this side.
func directories(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// fixed offers words for the first positional or for a flag.
func fixed(words ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) { return words, noFiles }
}

// live asks a running daemon; one that does not run is not started for a completion.
func (a *app) live(args []string, list func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	c, err := a.runningDaemon()
	if err != nil {
		return nil, noFiles
	}
	ctx, cancel := context.WithTimeout(a.soft, completeTime)
	defer cancel()
	words, err := list(ctx, c)
	if err != nil {
		return nil, noFiles
	}
	words = slices.DeleteFunc(words, func(w string) bool { return slices.Contains(args, w) })
	slices.Sort(words)
	return words, noFiles
}

// vmNames offers VMs that pass the test, up to most of them on one command line.
func (a *app) vmNames(most int, want func(api.VM) bool) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, noFiles
		}
		return a.live(args, func(ctx context.Context, c *client.Client) ([]string, error) {
			vms, err := c.VMs(ctx)
			var names []string
			for _, vm := range vms {
				if want(vm) {
					names = append(names, vm.Name)
				}
			}
			return names, err
		})
	}
}

func anyVM(api.VM) bool        { return true }
func stopped(vm api.VM) bool   { return vm.State == api.StateStopped }
func isRunning(vm api.VM) bool { return vm.State == api.StateRunning }

// reachable reports whether a VM's guest can be reached: it runs, or wakes when it is.
func reachable(vm api.VM) bool {
	asleep := vm.State == api.StateSuspended || vm.State == api.StateStarting
	return vm.State == api.StateRunning || asleep && vm.Spec.IdleSuspendMS > 0
}

func (a *app) completeVMs(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.vmNames(0, anyVM)(cmd, args, word)
}

func (a *app) completeVM(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.vmNames(1, anyVM)(cmd, args, word)
}

func (a *app) completeStopped(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.vmNames(0, stopped)(cmd, args, word)
}

func (a *app) completeRunning(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.vmNames(0, isRunning)(cmd, args, word)
}

func (a *app) completeRunningOne(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.vmNames(1, reachable)(cmd, args, word)
}

// completeCp offers VMs with a colon behind them, and files of this host.
func (a *app) completeCp(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) >= 2 || strings.ContainsAny(word, "/.:") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.vmNames(0, reachable)(cmd, nil, word)
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

func (a *app) completeImages(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.live(args, func(ctx context.Context, c *client.Client) ([]string, error) {
		images, err := c.Images(ctx)
		var names []string
		for _, i := range images {
			names = append(names, i.Name)
		}
		return names, err
	})
}

func (a *app) completeKernels(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.live(args, func(ctx context.Context, c *client.Client) ([]string, error) {
		kernels, err := c.Kernels(ctx)
		var names []string
		for _, k := range kernels {
			names = append(names, k.Name)
		}
		return names, err
	})
}

func (a *app) completeOperations(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.live(args, func(ctx context.Context, c *client.Client) ([]string, error) {
		ops, err := c.Operations(ctx)
		var ids []string
		for _, o := range ops {
			ids = append(ids, o.ID)
		}
		return ids, err
	})
}

// snapshotNames offers a word for each snapshot for which there is one.
func (a *app) snapshotNames(args []string, word func(api.Snapshot) (string, bool)) ([]string, cobra.ShellCompDirective) {
	return a.live(args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Snapshots(ctx, "")
		var words []string
		for _, s := range list {
			if w, ok := word(s); ok {
				words = append(words, w)
			}
		}
		return words, err
	})
}
