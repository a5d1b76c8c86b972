package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// stillTimeout bounds the time from stop to going on; the disks' flush takes most of it.
const stillTimeout = 5 * time.Minute

// Freeze writes the guest's state.
//
// What Firecracker has of its own for this writes memory while the guest stands: all that is resident, or all that was
// written since the last time. We want neither, but what differs from the template. So it is only asked for the devices' state, and
// the memory is read from outside. A snapshot resets the guest's vsock: its clients' streams go on over another connection.
func (i *instance) Freeze(ctx context.Context, f hypervisor.Freeze) (hypervisor.FreezeResult, error) {
	var res hypervisor.FreezeResult
	err := i.do(ctx, "freeze", func(ctx context.Context, ps *process) (err error) {
		fz := &freeze{i: i, ps: ps, Freezing: vmm.Freezing{Freeze: f, Image: i.image}}
		res, err = fz.do(ctx)
		return errors.Join(err, fz.Close(err != nil))
	})
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = api.Errorf(api.CodeExhausted, "%w", err).WithHint("banger prune")
	}
	return res, err
}

// freeze is one under way.
type freeze struct {
	vmm.Freezing
	i  *instance
	ps *process

	head   vmm.StateHead
	stream []byte
	// left are the layers that the guest no longer writes.
	left []string
	// stood: the guest was standing when we came, and is left so.
	stood bool
	still time.Duration
}

func (fz *freeze) do(ctx context.Context) (hypervisor.FreezeResult, error) {
	var res hypervisor.FreezeResult
	i := fz.i
	fz.stood = i.Standing()
	if err := fz.prepare(ctx); err != nil {
		return res, err
	}
	// From here on the guest must go on whatever becomes of the caller.
	still, cancel := context.WithTimeout(context.WithoutCancel(ctx), stillTimeout)
	defer cancel()
	err := fz.standStill(still)
	if err == nil {
		res.StoodStill = fz.still
		err = fz.write()
	}
	if err == nil {
		fz.Passed(hypervisor.StageWrite)
	}
	res.MemoryBytes = fz.Written
	if err != nil && !fz.stood && i.Standing() {
		err = errors.Join(err, i.goOn(still, fz.ps))
	}
	return res, err
}

// prepare does everything that may take long or fail while the guest runs.
func (fz *freeze) prepare(ctx context.Context) error {
	i := fz.i
	facts, err := i.h.oracle.Ask(ctx)
	if err != nil {
		return err
	}
	fz.head = vmm.StateHead{Stamp: stampFor(&i.m, facts), Whole: fz.Whole}
	if err := fz.checkOverlays(); err != nil {
		return err
	}
	if fz.Region, err = i.findMemory(fz.ps); err != nil {
		return err
	}
	if err := fz.Prepare(); err != nil {
		return err
	}
	// What is in the page cache now need not be written while the guest stands.
	for n, d := range i.m.Drives {
		path := d.Path
		if fz.ps.drives[n].DMName != "" {
			path = fz.ps.drives[n].Device
		}
		if d.ReadOnly {
			continue
		}
		if err := flush(path); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return ctx.Err()
}

// checkOverlays: what can be known to fail fails before anything is done.
func (fz *freeze) checkOverlays() error {
	for serial, path := range fz.Overlays {
		n, err := fz.i.driveOf(serial)
		if err != nil {
			return err
		}
		if fz.ps.drives[n].DMName == "" {
			return api.Errorf(api.CodeUnsupported, "drive %s is a plain file, and cannot move on to a layer", serial)
		}
		if fi, err := os.Stat(path); err != nil {
			return err
		} else if !fi.Mode().IsRegular() {
			return fmt.Errorf("the layer %s is no plain file", path)
		}
	}
	return nil
}

func flush(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fdatasync(int(f.Fd())), f.Close())
}

// standStill is from the guest's stop to its going on.
func (fz *freeze) standStill(ctx context.Context) error {
	i, api := fz.i, fz.ps.api
	if err := api.pause(ctx); err != nil {
		return err
	}
	stopped := time.Now()
	i.standing.Store(true)
	fz.Passed(hypervisor.StageStand)
	// Saving its state changes the guest's memory: devices finish what they have begun.
	var err error
	fz.stream, err = i.saveState(ctx, fz.ps)
	if err == nil {
		err = fz.CopyMemory()
	}
	if err != nil {
		return err
	}
	fz.Passed(hypervisor.StageCopy)
	if err := fz.moveOn(ctx); err != nil {
		return err
	}
	if fz.Resume && !fz.stood {
		if err := i.goOn(ctx, fz.ps); err != nil {
			return err
		}
		fz.still = time.Since(stopped)
	}
	fz.Passed(hypervisor.StageSwitch)
	return nil
}

// moveOn puts the drives on their new layers.
func (fz *freeze) moveOn(ctx context.Context) error {
	for n, d := range fz.i.m.Drives {
		path, wanted := fz.Overlays[d.Serial]
		if !wanted {
			continue
		}
		if err := fz.i.h.o.Attacher.Switch(ctx, fz.ps.drives[n].DMName, path); err != nil {
			return err
		}
		fz.left = append(fz.left, d.Path)
		fz.i.m.Drives[n].Path = path
	}
	return nil
}

// nowhere is a path in a jail where no file can be made.
const nowhere = "/none/memory"

// memoryRefused is how Firecracker words that it cannot make the file for the memory (CreateSnapshotError in src/vmm/src/persist.rs).
const memoryRefused = "memory backing file"

// saveState asks for a snapshot whose memory cannot be written: the state of the devices is in its file by then, on disk. There is no
// other way to have it alone, and writing the memory takes a second for 128 MiB. A Firecracker that did it the other way round would leave no
// file, and is asked again with a file for what it deems to be the memory's difference.
func (i *instance) saveState(ctx context.Context, ps *process) (stream []byte, err error) {
	h := i.h.o.Host
	remove := func() error {
		return errors.Join(h.RemoveJailed(ps.jail, inState), h.RemoveJailed(ps.jail, inDiff))
	}
	if err := remove(); err != nil {
		return nil, err
	}
	defer remove() //nolint:errcheck // the jail goes with the VMM
	err = ps.api.put(ctx, "/snapshot/create", snapshotCreate{"Full", "/" + inState, nowhere})
	var refused *fault
	if err == nil || !errors.As(err, &refused) {
		return nil, errors.Join(errors.New("memory was written where there is no place for it"), err)
	}
	if !strings.Contains(strings.ToLower(refused.Message), memoryRefused) {
		return nil, err
	}
	f, err := h.OpenJailed(ps.jail, inState)
	if errors.Is(err, os.ErrNotExist) {
		if err := ps.api.put(ctx, "/snapshot/create", snapshotCreate{"Diff", "/" + inState, "/" + inDiff}); err != nil {
			return nil, err
		}
		f, err = h.OpenJailed(ps.jail, inState)
	}
	if err != nil {
		return nil, err
	}
	stream, err = io.ReadAll(f)
	if err == nil && len(stream) == 0 {
		err = errors.New("no state was written")
	}
	ps.reset = true
	return stream, errors.Join(err, f.Close())
}

// write puts all into the files, and on disk what the guest no longer writes; it runs already, if it is to.
func (fz *freeze) write() error {
	if err := fz.Write(fz.head, fz.stream); err != nil || fz.Transient {
		return err
	}
	for _, path := range fz.left {
		if err := flush(path); err != nil {
			return err
		}
	}
	return nil
}
