package vm

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/hypervisor"
	"banger/internal/operation"
)

// takeRunning freezes a running or paused VM into dir. What the snapshot lies on is held until release.
func (sn *Snapshots) takeRunning(ctx context.Context, op *operation.Operation, vm api.VM, dir string, snap *api.Snapshot) (release func(), err error) {
	l, err := sn.points.forkable(vm)
	if err != nil {
		return nil, err
	}
	f, err := sn.points.plan(ctx, vm, l, dir)
	if err != nil {
		return nil, err
	}
	hold := sn.layers.Hold(f.point.RootLayerID, f.point.WorkLayerID)
	defer func() {
		if err = errors.Join(err, f.close(ctx)); err != nil {
			hold()
		}
	}()
	if err := f.begin(); err != nil {
		return nil, err
	}
	op.Reached("sealed")
	if err := f.moveOn(ctx); err != nil {
		return nil, err
	}
	op.Reached("moved")
	p, err := f.freeze(ctx, false)
	if err != nil {
		return nil, err
	}
	operation.Measured(ctx, "stood still", p.StoodStill)
	op.Reached("frozen")
	f.stepClock(ctx, op)
	return hold, p.describe(dir, snap)
}

// takeSuspended keeps the state that a VM is suspended in, and makes layers of its disks: it will go on upon new ones.
func (sn *Snapshots) takeSuspended(ctx context.Context, op *operation.Operation, vm api.VM, dir string, snap *api.Snapshot) (release func(), err error) {
	own := sn.paths.VM(vm.ID).Frozen()
	record, err := readFrozen(own)
	if err != nil {
		return nil, err
	}
	f, err := sn.points.plan(ctx, vm, nil, dir)
	if err != nil {
		return nil, err
	}
	f.point.Stamp, f.point.TemplateID, f.point.At = record.Stamp, record.TemplateID, record.At
	hold := sn.layers.Hold(f.point.RootLayerID, f.point.WorkLayerID)
	defer func() {
		if err = errors.Join(err, f.close(ctx)); err != nil {
			hold()
		}
	}()
	if err := f.begin(); err != nil {
		return nil, err
	}
	op.Reached("sealed")
	if err := linkFrozen(own, dir); err != nil {
		return nil, err
	}
	if err := f.moveOn(ctx); err != nil {
		return nil, err
	}
	op.Reached("moved")
	f.pending = false
	return hold, errors.Join(f.dropOld(), f.point.describe(dir, snap))
}

// sums are those of the files of a frozen state.
func sums(dir string) (map[string]uint32, error) {
	out := map[string]uint32{}
	for _, name := range []string{hypervisor.FrozenDevice, hypervisor.FrozenPages} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		_, err = io.Copy(sum, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		out[name] = sum.Sum32()
	}
	return out, nil
}

// describe puts what the point is into the snapshot's record, and beside its state.
func (p point) describe(dir string, snap *api.Snapshot) error {
	snap.RootTemplateID, snap.WorkTemplateID, snap.RootLayerID, snap.WorkLayerID = p.RootTemplateID, p.WorkTemplateID, p.RootLayerID, p.WorkLayerID
	var err error
	if p.Sums, err = sums(dir); err != nil {
		return err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, suspendedFile), text, 0o600)
}

// readFrozen reads what stands beside a frozen state. Beside a suspended VM's that is a part of a point only, for the rest is in its record.
func readFrozen(dir string) (point, error) {
	var p point
	text, err := os.ReadFile(filepath.Join(dir, suspendedFile))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(text, &p)
}
