package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"banger/api"
)

// settle completes or takes back what a dead daemon had begun with a VM's disks. l is nil when its VMM is gone: then
// the record is right. Layers without a record have been swept before. Called with the VM's lock held.
func (pt *points) settle(ctx context.Context, vm api.VM, l *liveVM) error {
	if l != nil {
		was, moved, err := pt.disksInUse(ctx, vm, l)
		if err != nil {
			return err
		}
		if !moved {
			pt.log.Info("back to the disks before a point that was cut off", "vm", vm.ID)
			return pt.goBack(ctx, was, vm)
		}
	}
	var errs []error
	keep := map[string]bool{}
	for _, t := range topsOf(vm) {
		keep[t.path] = true
		// Sealed as a layer that was never recorded.
		if fi, err := os.Lstat(t.path); err == nil && fi.Mode().Perm()&0o200 == 0 {
			errs = append(errs, pt.layers.Unseal("", t.path, pt.machines.backend(vm).FilesOf(vm.Runtime.UID)))
		}
	}
	return errors.Join(append(errs, pt.dropStrayDisks(vm, keep))...)
}

// disksInUse asks the VMM whether it is on the disks of the record. If not, was is the record with those that it is on.
func (pt *points) disksInUse(ctx context.Context, vm api.VM, l *liveVM) (was api.VM, moved bool, err error) {
	files, err := l.instance.DriveFiles(ctx)
	if err != nil {
		return vm, false, err
	}
	moved = true
	for _, t := range topsOf(vm) {
		moved = moved && sameFile(files[t.serial], t.path)
	}
	if moved {
		return vm, true, nil
	}
	layers, err := pt.store.Layers(ctx)
	if err != nil {
		return vm, false, err
	}
	was = vm
	r := &was.Runtime
	r.RootLayerID, r.WorkLayerID = layers[r.RootLayerID].Parent, layers[r.WorkLayerID].Parent
	tops := topsOf(vm)
	r.SystemOverlay, r.WorkDiskPath = files[tops[0].serial], files[tops[1].serial]
	for _, t := range topsOf(was) {
		if !exists(t.path) {
			return vm, false, fmt.Errorf("the VMM of VM %s is on the disk %s, which is gone", vm.Name, t.path)
		}
	}
	return was, false, nil
}

// sameFile compares names that may come from the kernel, which knows no links.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	one, e1 := os.Stat(a)
	other, e2 := os.Stat(b)
	return e1 == nil && e2 == nil && os.SameFile(one, other)
}

// dropStrayDisks removes disks that were replaced, or never used.
func (pt *points) dropStrayDisks(vm api.VM, keep map[string]bool) error {
	p := pt.paths.VM(vm.ID)
	entries, err := os.ReadDir(p.Private())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		path := p.Private() + "/" + e.Name()
		if (strings.HasPrefix(path, p.RootDisk()) || strings.HasPrefix(path, p.WorkDisk())) && !keep[path] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
