package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/qemu/qmp"
	"banger/internal/hypervisor/vmm"
)

// stillTimeout bounds the time from stop to cont; the disks' flush takes most of it.
const stillTimeout = 5 * time.Minute

// Freeze writes the guest's state.
//
// Whatever can fail or take time is done before the guest stands or after it goes on: layers are opened, space on disk is
// reserved, the copy's memory is there, disks are flushed. What is left for the standstill: QEMU's own flush, device
// state, copying pages, and last the switch to the new layers, which happens wholly or not at all.
func (i *instance) Freeze(ctx context.Context, f hypervisor.Freeze) (hypervisor.FreezeResult, error) {
	if err := i.turn.Take(ctx); err != nil {
		return hypervisor.FreezeResult{}, i.h.wrap(&i.m, "freeze", err)
	}
	defer i.turn.End()
	if err := i.interruptJobs(ctx); err != nil {
		return hypervisor.FreezeResult{}, i.h.wrap(&i.m, "freeze", err)
	}
	fz := &freeze{i: i, Freezing: vmm.Freezing{Freeze: f}}
	res, err := fz.do(ctx)
	if err = errors.Join(err, fz.cleanUp(err != nil)); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = api.Errorf(api.CodeExhausted, "%w", err).WithHint("banger prune")
		}
		return hypervisor.FreezeResult{}, i.h.wrap(&i.m, "freeze", err)
	}
	return res, nil
}

// freeze is one under way.
type freeze struct {
	vmm.Freezing
	i *instance
	c *qmp.Client

	head     stateHead
	switches []qmp.Switch
	switched bool
	// device receives QEMU's stream, as descriptor set fdset; out are the files of the result.
	device *os.File
	fdset  int
	// stood: the guest was standing when we came, and is left so.
	stood bool
}

func (fz *freeze) do(ctx context.Context) (hypervisor.FreezeResult, error) {
	var res hypervisor.FreezeResult
	i := fz.i
	if fz.c = i.currentControl(); fz.c == nil {
		return res, qmp.ErrClosed
	}
	if err := fz.prepare(ctx); err != nil {
		return res, err
	}
	// From here on the guest must go on whatever becomes of the caller.
	still, cancel := context.WithTimeout(context.WithoutCancel(ctx), stillTimeout)
	defer cancel()
	before := i.Standing()
	err := fz.standStill(still)
	if err == nil {
		res.StoodStill = fz.stoodStill()
		err = fz.write()
	}
	if err == nil {
		fz.Passed(hypervisor.StageWrite)
	}
	res.MemoryBytes = fz.Written
	if err != nil && !fz.stood {
		err = errors.Join(err, i.goOn())
	}
	if err != nil && fz.stood {
		i.standing.Store(before)
	}
	return res, err
}

// prepare does everything that may take long or fail while the guest runs, all of it at once.
func (fz *freeze) prepare(ctx context.Context) error {
	i, c := fz.i, fz.c
	facts, err := i.h.oracle.ask(ctx)
	if err != nil {
		return err
	}
	fz.head = stateHead{StateHead: vmm.StateHead{Stamp: stampFor(&i.m, facts), Whole: fz.Whole}}
	if fz.Image, err = imageOf(i.memory); err != nil {
		return err
	}
	if fz.device, err = anonymousFile("banger-state"); err != nil {
		return err
	}
	w, err := again(fz.device, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer w.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		state, err := c.RunState(ctx)
		fz.stood = state != "running"
		return err
	})
	g.Go(func() (err error) {
		ctx, cancel := toTheEnd(ctx)
		defer cancel()
		fz.fdset, err = c.AddFD(ctx, w)
		return err
	})
	g.Go(func() error { return fz.layers(ctx, g) })
	g.Go(func() error {
		p, err := i.findMemory(ctx, c)
		if err != nil {
			return err
		}
		fz.Region = p.guest
		if err := fz.Prepare(); err != nil {
			return err
		}
		fz.head.FirmwareAt, fz.head.Firmware = p.firmwareAt, make([]byte, p.firmware.Size())
		return p.firmware.Read(p.firmware.All(), fz.head.Firmware)
	})
	return g.Wait()
}

// imageOf reads an image's id out of a memory backend's.
func imageOf(backend string) (memory.ImageID, error) {
	var id memory.ImageID
	text, _ := strings.CutPrefix(backend, memoryThawed)
	if backend == memoryCold || text == "" {
		return id, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("cannot tell the memory image of %q", backend)
	}
	return memory.ImageID(b), nil
}

// layers opens the new layers and flushes the files below them, so that there is little left to flush later.
func (fz *freeze) layers(ctx context.Context, g *errgroup.Group) error {
	tops, err := fz.c.Tops(ctx)
	if err != nil {
		return err
	}
	for n, d := range fz.i.m.Drives {
		if d.ReadOnly {
			continue
		}
		top := tops[device(n)]
		g.Go(func() error { return flush(top.File) })
		path, wanted := fz.Overlays[d.Serial]
		if !wanted {
			continue
		}
		s := qmp.Switch{Node: top.Node, Overlay: nextNode(top.Node)}
		layer := blockNode(s.Overlay, hypervisor.Drive{Serial: d.Serial, Path: path, Format: "qcow2"})
		layer["backing"] = nil
		actx, cancel := toTheEnd(ctx)
		err := fz.c.Overlay(actx, layer)
		cancel()
		if err != nil {
			return err
		}
		fz.switches = append(fz.switches, s)
	}
	if len(fz.switches) != len(fz.Overlays) {
		return errors.New("a layer is for a drive that is not there, or cannot be written")
	}
	return nil
}

// toTheEnd is for what QEMU keeps once it has been asked: even when something else fails meanwhile, its answer tells
// what must be given back.
func toTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), adoptTimeout)
}

// nextNode names the layer above a node: d0, d0.1, d0.2, …
func nextNode(top string) string {
	base, _, _ := strings.Cut(top, ".")
	return fmt.Sprintf("%s.%d", base, layerNumber(top)+1)
}

// layerNumber is how many layers a drive's node was put on.
func layerNumber(name string) int {
	_, count, _ := strings.Cut(name, ".")
	n := 0
	_, _ = fmt.Sscan(count, &n)
	return n
}

// flush writes back what the kernel has in memory of a file. The path is the VMM's word: nothing but a plain file is opened.
func flush(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	named := os.NewFile(uintptr(fd), path)
	defer named.Close()
	if fi, err := named.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("the disk %s is no plain file", path), err)
	}
	f, err := again(named, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fdatasync(int(f.Fd())), f.Close())
}

// standStill is from the guest's stop to its going on.
func (fz *freeze) standStill(ctx context.Context) error {
	c := fz.c
	stood := fz.i.standing.Swap(true)
	if fz.stood && fz.Resume {
		defer fz.i.standing.Store(stood) // whoever stopped it lets it go on
	}
	if !fz.stood {
		if err := c.BeginStop().Wait(ctx, nil); err != nil {
			return err
		}
	}
	fz.Passed(hypervisor.StageStand)
	saved := c.BeginSave(fmt.Sprintf("/dev/fdset/%d", fz.fdset))
	copied := fz.CopyMemory()
	if err := errors.Join(saved.Wait(ctx, nil), copied); err != nil {
		return err
	}
	fz.Passed(hypervisor.StageCopy)
	var switched, resumed *qmp.Pending
	if len(fz.switches) > 0 {
		switched = c.BeginSwitch(fz.switches)
	}
	if fz.Resume && !fz.stood {
		resumed = c.BeginCont()
	}
	var err error
	if switched != nil {
		err = switched.Wait(ctx, nil)
		fz.switched = err == nil
	}
	if resumed != nil {
		err = errors.Join(err, resumed.Wait(ctx, nil))
	}
	if err == nil {
		fz.Passed(hypervisor.StageSwitch)
	}
	return err
}

// write puts all into the files; the guest runs already, if it is to.
func (fz *freeze) write() error {
	if !fz.i.h.host.Alive(fz.i.p) {
		return errors.New("the VMM has ended meanwhile") // and its id may be another's
	}
	stream, err := readAll(fz.device)
	if err != nil {
		return err
	}
	return fz.Write(fz.head, stream)
}

func readAll(f *os.File) ([]byte, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, fi.Size())
	_, err = f.ReadAt(b, 0)
	return b, err
}

// stoodStill goes by QEMU's own times; it tells of both before it answers.
func (fz *freeze) stoodStill() time.Duration {
	if !fz.Resume || fz.stood {
		return 0
	}
	fz.i.mu.Lock()
	defer fz.i.mu.Unlock()
	return fz.i.resumedAt.Sub(fz.i.stoppedAt)
}

// cleanUp gives back what a freeze has taken; after a failure its files and unused layers, too.
func (fz *freeze) cleanUp(failed bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), adoptTimeout)
	defer cancel()
	var errs []error
	if fz.c != nil && fz.fdset != 0 {
		_ = fz.c.RemoveFD(ctx, fz.fdset) // gone already, once it was used
	}
	if !fz.switched {
		for _, s := range fz.switches {
			errs = append(errs, fz.c.DropNode(ctx, s.Overlay))
		}
	}
	if fz.device != nil {
		errs = append(errs, fz.device.Close())
	}
	return errors.Join(append(errs, fz.Close(failed))...)
}
