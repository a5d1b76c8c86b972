package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/backend"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest"
	"banger/internal/hypervisor"
	"banger/internal/network"
	"banger/internal/operation"
)

// Ensure finds the template for what is wanted, or builds it. The second of two callers waits for the first.
func (s *Service) Ensure(ctx context.Context, op *operation.Operation, w Want) (api.Template, error) {
	key, err := s.Key(ctx, w)
	if err != nil {
		return api.Template{}, err
	}
	if t, found, err := s.Store.TemplateByKey(ctx, key); err != nil || found {
		return t, err
	}
	unlock, err := s.locks.Lock(ctx, key)
	if err != nil {
		return api.Template{}, err
	}
	defer unlock()
	if t, found, err := s.Store.TemplateByKey(ctx, key); err != nil || found {
		return t, err
	}
	op.Warn("no machine of this kind is frozen yet: booting once, about %d s", s.estimate(ctx, w))
	var t api.Template
	err = op.Step(ctx, "build template", func(ctx context.Context) error {
		t, err = s.build(ctx, op, key, w)
		return err
	})
	return t, err
}

// estimate is how long the boot takes, in seconds: as the last template of this image did, else as measured on
// a machine without virtualisation (docs/benchmarks.md).
func (s *Service) estimate(ctx context.Context, w Want) int64 {
	if all, err := s.Store.Templates(ctx); err == nil {
		for i := len(all) - 1; i >= 0; i-- {
			if all[i].ImageDigest == w.Image.Digest && all[i].BuildMS > 0 {
				return (all[i].BuildMS + 999) / 1000
			}
		}
	}
	if w.Image.Init == "systemd" {
		return 14
	}
	return 4
}

// build is one template being made: a cold boot to ready, frozen, sealed. Whatever happens, nothing runs
// when it returns, and without success nothing is left.
func (s *Service) build(ctx context.Context, op *operation.Operation, key string, w Want) (_ api.Template, err error) {
	begin := s.Now()
	id := s.NewID()
	with, err := s.Backends.Get(w.Hypervisor)
	if err != nil {
		return api.Template{}, err
	}
	b := &builder{Service: s, op: op, id: id, want: w, backend: with, machine: s.shape(with, w)}
	defer func() { err = errors.Join(err, b.close(context.WithoutCancel(ctx))) }()
	for _, step := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"make its disks", b.disks},
		{"boot", b.boot},
		{"wait for the guest", b.ready},
		{"freeze", b.freeze},
		{"seal", b.seal},
	} {
		op.Detail("%s", step.what)
		if err := step.run(ctx); err != nil {
			return api.Template{}, fmt.Errorf("cannot %s: %w", step.what, err)
		}
	}
	used, err := disk.Used(s.Paths.Template(id).Dir)
	if err != nil {
		return api.Template{}, err
	}
	t := api.Template{
		ID: id, Key: key, Image: w.Image.Name, ImageDigest: w.Image.Digest, KernelDigest: w.KernelDigest,
		CPUs: w.CPUs, MemoryBytes: w.MemoryBytes, DiskBytes: w.DiskBytes, RootBytes: w.RootBytes, Net: w.Net,
		Hypervisor: w.Hypervisor, Accel: b.accel, UsedBytes: used,
		BuildMS: s.Now().Sub(begin).Milliseconds(), CreatedAt: s.Now().UTC(),
	}
	op.Reached("sealed")
	return t, s.Store.InsertTemplate(ctx, t)
}

// shape is the machine of a template, without what names one build.
func (s *Service) shape(b backend.Backend, w Want) hypervisor.Machine {
	m := hypervisor.Machine{
		UID: s.UID, GID: s.UID, CPUs: w.CPUs, MemoryBytes: w.MemoryBytes,
		Kernel: w.Kernel, Initramfs: w.Initramfs, Cmdline: w.Cmdline,
		Drives: []hypervisor.Drive{
			{Serial: agentapi.SerialRoot, Format: b.Disks.Format()},
			{Serial: agentapi.SerialModules, Path: w.Modules, Format: "raw", ReadOnly: true},
			{Serial: agentapi.SerialWork, Format: b.Disks.Format()},
		},
	}
	switch w.Net {
	case api.NetBridge:
		m.NIC = &hypervisor.NIC{Kind: hypervisor.NICTap}
	case api.NetUser:
		m.NIC = &hypervisor.NIC{Kind: hypervisor.NICSocket}
	}
	return m
}

// builder is one build under way. Each method is a step of it.
type builder struct {
	*Service
	op      *operation.Operation
	id      string
	want    Want
	backend backend.Backend
	machine hypervisor.Machine
	accel   string

	link     network.Link
	instance hypervisor.Instance
	agent    *guest.Client
}

func (b *builder) guest() network.Guest {
	g := network.Guest{ID: b.id, Name: "template-" + b.id, Kind: b.want.Net, UID: b.UID}
	if b.want.Net != api.NetNone {
		g.MAC = network.MACFor(b.id).String()
	}
	return g
}

func (b *builder) disks(ctx context.Context) error {
	p := b.Paths.VM(b.id)
	for _, dir := range []string{b.Paths.Templates(), b.Paths.VMs(), p.Dir} {
		if err := errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(p.Private(), 0o700); err != nil {
		return err
	}
	if b.UID != 0 {
		if err := b.Host.Give(p.Private(), b.UID); err != nil {
			return err
		}
	}
	b.machine.ID, b.machine.Dir = b.id, p.Private()
	b.machine.Drives[0].Path, b.machine.Drives[2].Path = p.RootDisk(), p.WorkDisk()
	f, err := b.backend.Hypervisor.Features(ctx)
	if err != nil {
		return err
	}
	b.accel = f.Accel
	return errors.Join(
		b.backend.Disks.Create(ctx, disk.Spec{Path: p.RootDisk(), Base: b.want.Root, SizeBytes: b.want.RootBytes, UID: b.UID, GID: b.UID, Give: b.Host.Give}),
		b.backend.Disks.Create(ctx, disk.Spec{Path: p.WorkDisk(), SizeBytes: b.want.DiskBytes, UID: b.UID, GID: b.UID, Give: b.Host.Give}),
	)
}

// boot starts the VMM. The device is there, since every clone needs its slot; its link leads nowhere, since
// the tap is never put into a bridge.
func (b *builder) boot(ctx context.Context) error {
	if b.want.Net != api.NetNone {
		link, err := b.Network.AttachAnonymous(ctx, b.guest())
		if err != nil {
			return err
		}
		b.link = link
		b.machine.NIC.MAC, b.machine.NIC.Tap, b.machine.NIC.TapName, b.machine.NIC.Socket = b.guest().MAC, link.Tap, link.TapName, link.Socket
	}
	instance, err := b.backend.Hypervisor.Start(ctx, b.machine, func(hypervisor.Handles) error { return nil })
	if err != nil {
		return err
	}
	b.instance = instance
	go func() { // the contract: events are read until the VMM is gone
		for range instance.Events() {
		}
	}()
	b.agent = guest.New(instance.DialGuest)
	return nil
}

// ready brings the guest up without any identity. It formats, fills and mounts the disk that all new work disks lie
// on: the host never makes a file system that a guest mounts read-write.
func (b *builder) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.ReadyTimeout)
	defer cancel()
	if _, err := b.agent.Health(ctx); err != nil {
		return err
	}
	keys, err := b.AuthorizedKeys()
	if err != nil {
		return err
	}
	r := agentapi.Release{WorkDisk: &agentapi.WorkDisk{Device: agentapi.SerialWork}, AuthorizedKeys: keys}
	if err := b.agent.Release(ctx, r); err != nil {
		return err
	}
	// Its cable stays out: a clone is thawed without one.
	if b.want.Net != api.NetNone {
		if err := b.instance.SetLink(ctx, false); err != nil {
			return err
		}
	}
	if _, err := b.agent.WaitReady(ctx); err != nil {
		return err
	}
	if err := b.agent.Quiesce(ctx); err != nil {
		return err
	}
	select { // what it does behind its answer, every clone would have to do
	case <-time.After(settleTime):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settleTime is enough for the agent to let go of the conversation and to tidy up after its commands, which it does a second
// after them. Nothing depends on it but clones' speed.
const settleTime = 1500 * time.Millisecond

// freeze writes memory and devices, and ends the VMM: the disks stay as they are in the frozen memory.
func (b *builder) freeze(ctx context.Context) error {
	dir := b.Paths.Template(b.id).Dir
	if err := errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
		return err
	}
	if _, err := b.instance.Freeze(ctx, hypervisor.Freeze{Dir: dir, Whole: true, Stage: b.op.Stage}); err != nil {
		return err
	}
	return b.instance.Kill(ctx)
}

// seal moves the disks beside the frozen state, and makes all of it read-only and the daemon's.
func (b *builder) seal(context.Context) error {
	p, t := b.Paths.VM(b.id), b.Paths.Template(b.id)
	if err := errors.Join(os.Rename(p.RootDisk(), t.Root()), os.Rename(p.WorkDisk(), t.Work())); err != nil {
		return err
	}
	entries, err := os.ReadDir(t.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		mode := os.FileMode(0o444)
		switch path := filepath.Join(t.Dir, e.Name()); {
		case path == t.Memory() && b.UID == 0 && os.Geteuid() != 0:
			mode = 0o600 // QEMU before 8.2 opens it for writing, though it maps it privately
		case path == t.Memory() || path == t.Device():
			mode = 0o400 // VMMs of other uids get them as descriptors
		}
		if err := sealFile(filepath.Join(t.Dir, e.Name()), mode); err != nil {
			return err
		}
	}
	return errors.Join(durable.SyncDir(t.Dir), durable.SyncDir(b.Paths.Templates()))
}

func sealFile(path string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chown(os.Geteuid(), os.Getegid()), f.Chmod(mode), f.Sync(), f.Close())
}

// close ends whatever a build has begun; what it has sealed stays only if the build got as far as its record.
func (b *builder) close(ctx context.Context) error {
	errs := []error{b.link.Close()}
	if b.instance != nil {
		errs = append(errs, b.instance.Kill(ctx))
	}
	if b.want.Net != api.NetNone {
		errs = append(errs, b.Network.Detach(ctx, b.guest()))
	}
	errs = append(errs, os.RemoveAll(b.Paths.VM(b.id).Dir))
	if _, err := b.Store.Template(ctx, b.id); err != nil {
		errs = append(errs, os.RemoveAll(b.Paths.Template(b.id).Dir))
	}
	return errors.Join(errs...)
}
