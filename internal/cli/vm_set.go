package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

type setOptions struct {
	cpus                   int
	memory, disk, rootDisk sizeFlag
	labels, unlabel        []string
	idleSuspend            orNeverFlag
	autostart              bool
}

func newSetCmd(a *app) *cobra.Command {
	var o setOptions
	cmd := &cobra.Command{
		Use:   "set VM [flags]",
		Short: "change a VM's CPUs, memory, labels and idle policy, and grow its disks",
		Long: `Change a VM's CPUs, memory, labels and idle policy, and grow its disks. CPUs and memory
of a running VM change at its next start; what waits for that is shown.`,
		Args:              needOne("the name or id of a VM", "banger ps -a lists them"),
		ValidArgsFunction: a.completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			update, err := o.update(cmd)
			if err != nil {
				return err
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			vm, err := c.UpdateVM(cmd.Context(), ref(args[0]), update)
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Out, vm)
			}
			if len(vm.Pending) > 0 {
				a.note("%s gets this at its next start: %s   banger restart %s", vm.Name, strings.Join(vm.Pending, ", "), vm.Name)
			}
			_, err = fmt.Fprintln(a.Out, args[0])
			return err
		},
	}
	f := cmd.Flags()
	f.IntVarP(&o.cpus, "cpus", "c", 0, "virtual CPUs, 1 to 64")
	f.VarP(&o.memory, "memory", "m", "memory, such as 512M or 2G")
	f.Var(&o.disk, "disk-size", "grow the work disk to this size")
	f.Var(&o.rootDisk, "root-size", "grow the root disk to this size")
	f.Var(&o.idleSuspend, "idle-suspend", "suspend the VM when it was idle for so long; 0 is never")
	f.BoolVar(&o.autostart, "autostart", false, "start the VM when the host has booted; --autostart=false: no longer")
	f.StringArrayVar(&o.labels, "label", nil, "set a label: `K=V`")
	f.StringArrayVar(&o.unlabel, "unlabel", nil, "remove the label with this `KEY`")
	return cmd
}

func (o *setOptions) update(cmd *cobra.Command) (api.VMUpdate, error) {
	var u api.VMUpdate
	labels, err := parseLabels(o.labels)
	if err != nil {
		return u, err
	}
	for _, k := range o.unlabel {
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[k] = ""
	}
	u.Labels = labels
	if cmd.Flags().Changed("cpus") {
		if o.cpus < 1 || o.cpus > api.MaxCPUs {
			return u, api.Errorf(api.CodeInvalid, "--cpus is %d: give 1 to %d", o.cpus, api.MaxCPUs)
		}
		u.CPUs = &o.cpus
	}
	for _, s := range []struct {
		flag  *sizeFlag
		field **int64
	}{{&o.memory, &u.MemoryBytes}, {&o.disk, &u.DiskBytes}, {&o.rootDisk, &u.RootBytes}} {
		if s.flag.set {
			*s.field = &s.flag.bytes
		}
	}
	if o.idleSuspend.set {
		ms := o.idleSuspend.milliseconds()
		if o.idleSuspend.d == 0 {
			ms = 0
		}
		u.IdleSuspendMS = &ms
	}
	if cmd.Flags().Changed("autostart") {
		u.Autostart = &o.autostart
	}
	if u.Autostart == nil && u.IdleSuspendMS == nil && u.CPUs == nil && u.MemoryBytes == nil && u.DiskBytes == nil && u.RootBytes == nil && len(u.Labels) == 0 {
		return u, api.Errorf(api.CodeInvalid, "nothing to set").WithHint("%s --help", cmd.CommandPath())
	}
	return u, nil
}
