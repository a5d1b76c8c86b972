package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

func newShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show VM...",
		Aliases:           []string{"inspect"},
		Short:             "show all about VMs",
		Args:              needRefs,
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return showEach(cmd.Context(), a, args, "", func(ctx context.Context, name string) (any, *fields, error) {
				c, err := a.daemon()
				if err != nil {
					return nil, nil, err
				}
				vm, err := c.VM(ctx, ref(name))
				return vm, vmFields(a, vm), err
			})
		},
	}
}

// showEach prints several objects, as JSON or as fields, and all errors.
func showEach(ctx context.Context, a *app, args []string, kind string, get func(context.Context, string) (any, *fields, error)) error {
	errs := make([]error, len(args))
	shown := 0
	for i, arg := range args {
		object, f, err := get(ctx, arg)
		if errs[i] = err; err != nil {
			continue
		}
		if a.json {
			err = writeJSON(a.Out, object)
		} else {
			if shown > 0 {
				fmt.Fprintln(a.Out, kind)
			}
			err = f.write(a.Out)
		}
		if err != nil {
			return err
		}
		shown++
	}
	return a.allErrors(errs)
}

func vmFields(a *app, vm api.VM) *fields {
	f := &fields{}
	f.add("name", vm.Name)
	f.add("id", vm.ID)
	f.add("client id", vm.ClientID)
	f.add("state", stateWord(vm))
	f.add("why stopped", vm.StopReason)
	f.add("image", vm.Spec.Image+"  "+short(vm.Runtime.ImageDigest))
	f.add("kernel", vm.Spec.Kernel+"  "+short(vm.Runtime.KernelDigest))
	f.add("cpus", fmt.Sprint(vm.Spec.CPUs))
	f.add("memory", config.FormatSize(vm.Spec.MemoryBytes))
	f.add("work disk", config.FormatSize(vm.Spec.DiskBytes))
	f.add("root disk", config.FormatSize(vm.Spec.RootBytes))
	f.add("network", string(vm.Spec.Net))
	f.add("address", vm.Runtime.GuestIP)
	f.add("dns name", vm.Runtime.DNSName)
	f.add("hypervisor", strings.TrimSpace(vm.Spec.Hypervisor+" "+vm.Runtime.Accel))
	for _, k := range slices.Sorted(maps.Keys(vm.Spec.Labels)) {
		f.add("label", k+"="+vm.Spec.Labels[k])
	}
	if vm.Spec.AutoRemove {
		f.add("removed", "when its main command has ended")
	}
	if vm.Spec.Autostart {
		f.add("autostart", "when the host has booted")
	}
	if idle := vm.Spec.IdleSuspendMS; idle > 0 {
		f.add("idle suspend", "after "+config.FormatDuration(time.Duration(idle)*time.Millisecond))
	}
	f.add("at next start", strings.Join(vm.Pending, ", "))
	f.add("snapshots", strings.Join(vm.Snapshots, ", "))
	for _, w := range vm.Workspaces {
		f.add("workspace", printable(fmt.Sprintf("%s  from %s  %s %s", w.GuestPath, w.HostPath, w.Branch, short(w.Head))))
	}
	f.add("main command", mainWords(vm.Main))
	if vm.LastError != nil {
		f.add("last error", vm.LastError.Message)
	}
	f.add("created", a.ago(vm.CreatedAt))
	if vm.StartedAt != nil && vm.State != api.StateStopped {
		f.add("started", a.ago(*vm.StartedAt))
	}
	if vm.StoppedAt != nil && vm.State == api.StateStopped {
		f.add("stopped", a.ago(*vm.StoppedAt))
	}
	f.add("host key", vm.Runtime.SSHHostKey)
	f.add("directory", vm.Runtime.VMDir)
	return f
}

// mainWords says in a few words what became of the main command.
func mainWords(m *api.MainCommand) string {
	if m == nil {
		return ""
	}
	command := quoteWords(m.Argv)
	switch {
	case m.EndedAt == nil:
		return command + "  (running)"
	case m.TimedOut:
		return command + "  (timed out)"
	case m.Signal != "":
		return command + "  (ended by " + m.Signal + ")"
	case m.ExitCode != nil:
		return fmt.Sprintf("%s  (exit code %d)", command, *m.ExitCode)
	}
	return command + "  (" + m.Error + ")"
}

// quoteWords is a command for people to read, its words kept apart.
func quoteWords(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n\"'\\$") {
			words[i] = strconv.Quote(w)
		}
	}
	return strings.Join(words, " ")
}
