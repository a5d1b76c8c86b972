package doctor

import (
	"context"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"banger/api"
	"banger/internal/config"
)

// perVM is what a VM costs beyond its own memory: translated code (tb-size=128) and the
// VMM itself; from the design's price of a VM.
const perVM = (128 + 64) * config.MiB

// memory: enough for one VM as it is configured, or a warning; not even enough for the smallest, a failure.
func (o Options) memory() api.Check {
	free := o.memAvailable()
	want := o.Config.Memory + perVM
	switch {
	case free == 0:
		return warn("memory", "", "cannot read /proc/meminfo")
	case free < 64*config.MiB+perVM:
		return fail("memory", "banger vm stop $(banger ps -q)", "%s free: too little for the smallest VM", size(free))
	case free < want:
		return warn("memory", "banger run --memory 256M", "%s free, a VM of the configured size takes up to %s", size(free), size(want))
	}
	return ok("memory", "%s free, a VM of the configured size takes up to %s", size(free), size(want))
}

func (o Options) memAvailable() int64 {
	for line := range strings.Lines(o.text("/proc/meminfo")) {
		if v, found := strings.CutPrefix(line, "MemAvailable:"); found {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err == nil {
				return kb * 1024
			}
		}
	}
	return 0
}

// disk: an image build needs about 2 GiB for a while, one VM at work a few hundred MiB.
func (o Options) disk() api.Check {
	dir := o.Config.Paths.State
	free, err := o.Machine.FreeDisk(dir)
	switch {
	case err != nil:
		return fail("disk", "", "cannot tell the free space below %s: %v", dir, err)
	case free < 256*config.MiB:
		return fail("disk", "banger prune", "%s free below %s: too little for any VM", size(free), dir)
	case free < 3*config.GiB:
		return warn("disk", "banger prune", "%s free below %s: building the default image takes about 2G", size(free), dir)
	}
	return ok("disk", "%s free below %s", size(free), dir)
}

// cgroup: with a memory controller a VM cannot take more than it was given.
func (o Options) cgroup() api.Check {
	if strings.Contains(o.text("/sys/fs/cgroup/cgroup.controllers"), "memory") {
		return ok("cgroup", "version 2 with a memory controller")
	}
	if _, err := fs.Stat(o.Machine.Files, "sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		return ok("cgroup", "version 1 with a memory controller")
	}
	return ok("cgroup", "no memory controller: what a VMM takes beside its guest's memory is not limited")
}

// clock: guests get this host's time, and with a wrong one neither apt nor TLS works in them.
func (o Options) clock() api.Check {
	now := o.Machine.Now().UTC()
	// Debian 12 came out in June 2023: before that, no certificate or archive it knows is valid.
	if now.Before(time.Date(2023, 6, 10, 0, 0, 0, 0, time.UTC)) {
		return warn("clock", o.sudo("timedatectl set-ntp true"), "this host says it is %s; guests get that time", now.Format(time.RFC3339))
	}
	return ok("clock", "%s", now.Format(time.RFC3339))
}

// catalogue: what the first run will have to build.
func (o Options) catalogue(ctx context.Context) []api.Check {
	images, kernels, err := o.Catalogue(ctx)
	if err != nil {
		return []api.Check{fail("images", "", "cannot list images and kernels: %v", err)}
	}
	image := slices.ContainsFunc(images, func(i api.Image) bool { return i.Name == o.Config.Image })
	kernel := slices.ContainsFunc(kernels, func(k api.Kernel) bool { return k.Name == o.Config.Kernel })
	return []api.Check{
		present("image", o.Config.Image, image),
		present("kernel", o.Config.Kernel, kernel),
	}
}

func present(noun, name string, there bool) api.Check {
	if there {
		return ok(noun, "%s", name)
	}
	return warn(noun, "banger "+noun+" build "+name, "the default %s %q is not there; the first run makes it, which takes minutes", noun, name)
}

// guests: a guest whose clock is off has broken TLS and apt (traps.md, 36).
func (o Options) guests(ctx context.Context) []api.Check {
	off := o.Guests(ctx)
	checks := []api.Check{}
	for _, name := range slices.Sorted(maps.Keys(off)) {
		if d := off[name].Abs(); d > 2*time.Second {
			checks = append(checks, warn("guest time", "banger restart "+name, "the clock of %s is %s off", name, d.Round(time.Second)))
		}
	}
	if len(checks) == 0 && len(off) > 0 {
		checks = append(checks, ok("guest time", "the clocks of %d running VMs are right", len(off)))
	}
	return checks
}
