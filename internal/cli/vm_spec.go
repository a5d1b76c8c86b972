package cli

import (
	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

// specOptions are the flags that say what a new VM is like.
type specOptions struct {
	name, clientID         string
	image, kernel, net     string
	hypervisor             string
	cpus                   int
	memory, disk, rootDisk sizeFlag
	labels                 []string
	autoRemove, autostart  bool
	cold                   bool
	idleSuspend            orNeverFlag
	snapshot               string
}

func (o *specOptions) flags(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the VM, a DNS label (default: made up)")
	f.StringArrayVar(&o.labels, "label", nil, "label the VM: `K=V`")
	f.StringVar(&o.clientID, "client-id", "", "your own `KEY` for the VM: the same key and spec give the same VM again")
	f.Var(&o.idleSuspend, "idle-suspend", "suspend the VM when it was idle for so long; the next exec, cp, port-forward or ssh wakes it; 0 is never")
	f.BoolVar(&o.autostart, "autostart", false, "start the VM when the host has booted (see banger system install)")
	f.StringVar(&o.snapshot, "snapshot", "", "go on from a snapshot, `VM/NAME`, in its shape")
	complete(cmd, "name", nothing)
	complete(cmd, "snapshot", a.completeSnapshotRef)
	o.shapeFlags(a, cmd)
}

// shapeFlags are those that a template has in common with its VMs.
func (o *specOptions) shapeFlags(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.image, "image", "", "image to start from (default: debian)")
	f.StringVar(&o.kernel, "kernel", "", "kernel to boot (default: debian)")
	f.IntVarP(&o.cpus, "cpus", "c", 0, "virtual CPUs, 1 to 64")
	f.VarP(&o.memory, "memory", "m", "memory, such as 512M or 2G")
	f.Var(&o.disk, "disk-size", "size of the work disk at /root and /home, such as 8G")
	f.Var(&o.rootDisk, "root-size", "size of the root disk, such as 8G")
	f.StringVar(&o.net, "net", "", "network: bridge (root's default), user (a user's default) or none")
	f.StringVar(&o.hypervisor, "hypervisor", "", "what runs the VM: firecracker, qemu, or auto, the best that works here")
	complete(cmd, "hypervisor", fixed("auto", "firecracker", "qemu"))
	complete(cmd, "image", a.completeImages)
	complete(cmd, "kernel", a.completeKernels)
	complete(cmd, "net", fixed("bridge", "user", "none"))
}

// request is the VM that was asked for. What was said by flag, environment or file is
// sent; what nobody said is left to the daemon.
func (o *specOptions) request(a *app, cmd *cobra.Command) (api.VMCreate, error) {
	cfg, err := a.config()
	if err != nil {
		return api.VMCreate{}, err
	}
	labels, err := parseLabels(o.labels)
	if err != nil {
		return api.VMCreate{}, err
	}
	given := cmd.Flags().Changed
	spec := api.VMSpec{
		Image:       choose(given("image"), o.image, cfg.Explicit("image"), cfg.Image),
		Kernel:      choose(given("kernel"), o.kernel, cfg.Explicit("kernel"), cfg.Kernel),
		CPUs:        choose(given("cpus"), o.cpus, cfg.Explicit("cpus"), cfg.CPUs),
		MemoryBytes: choose(o.memory.set, o.memory.bytes, cfg.Explicit("memory"), cfg.Memory),
		DiskBytes:   choose(o.disk.set, o.disk.bytes, cfg.Explicit("disk_size"), cfg.DiskSize),
		RootBytes:   choose(o.rootDisk.set, o.rootDisk.bytes, cfg.Explicit("root_size"), cfg.RootSize),
		Net:         api.NetKind(choose(given("net"), o.net, cfg.Explicit("net"), cfg.Net)),
		Hypervisor:  choose(given("hypervisor"), o.hypervisor, cfg.Explicit("hypervisor"), cfg.Hypervisor),
		Labels:      labels,
		AutoRemove:  o.autoRemove,
		Autostart:   o.autostart,

		IdleSuspendMS: choose(o.idleSuspend.set, orNever(o.idleSuspend.d), cfg.Explicit("idle_suspend"), orNever(cfg.IdleSuspend)),
	}
	if given("snapshot") { // what is configured is for new machines: this one has the snapshot's shape
		for _, flag := range []string{"image", "kernel", "cpus", "memory", "disk-size", "root-size", "net", "hypervisor", "cold"} {
			if cmd.Flags().Lookup(flag) != nil && given(flag) {
				return api.VMCreate{}, api.Errorf(api.CodeInvalid, "--%s and --snapshot exclude one another: the VM has the snapshot's shape", flag).
					WithHint("banger vm snapshot list --json")
			}
		}
		spec = api.VMSpec{Labels: labels, AutoRemove: o.autoRemove, Autostart: o.autostart, IdleSuspendMS: spec.IdleSuspendMS}
		if _, _, err := api.SplitSnapshot(o.snapshot); err != nil {
			return api.VMCreate{}, err
		}
	}
	// A flag that was given is meant, even where its value is what a request takes for "none given".
	for flag, empty := range map[string]bool{
		"name": o.name == "", "image": o.image == "", "kernel": o.kernel == "", "net": o.net == "", "hypervisor": o.hypervisor == "",
	} {
		if given(flag) && empty {
			return api.VMCreate{}, api.Errorf(api.CodeInvalid, "--%s is empty", flag).WithHint("%s --help", cmd.CommandPath())
		}
	}
	if given("cpus") && (o.cpus < 1 || o.cpus > api.MaxCPUs) {
		return api.VMCreate{}, api.Errorf(api.CodeInvalid, "--cpus is %d: give 1 to %d", o.cpus, api.MaxCPUs)
	}
	if o.memory.set && o.memory.bytes < api.MinMemoryBytes {
		return api.VMCreate{}, api.Errorf(api.CodeInvalid, "--memory is %s: give at least %s", config.FormatSize(o.memory.bytes), config.FormatSize(api.MinMemoryBytes))
	}
	create := api.VMCreate{Name: o.name, ClientID: o.clientID, Spec: spec, Snapshot: o.snapshot}
	return create, create.Validate()
}

func choose[T any](given bool, flag T, configured bool, value T) T {
	var zero T
	switch {
	case given:
		return flag
	case configured:
		return value
	}
	return zero
}
