package vm

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/layer"
	"banger/internal/store"
)

// point is a VM at one moment: memory, devices and disks. Any number of guests can be thawed from it, each with disks of its own on the
// point's layers.
type point struct {
	// Stamp must be the same to thaw it.
	Stamp hypervisor.Stamp `json:"stamp"`
	// TemplateID is the template whose memory the pages lie on; empty for none.
	TemplateID string `json:"template_id"`
	// The layers that hold the disks, and the templates that these end at; empty for one that ends at the image, or at nothing.
	RootLayerID    string `json:"root_layer_id"`
	WorkLayerID    string `json:"work_layer_id"`
	RootTemplateID string `json:"root_template_id"`
	WorkTemplateID string `json:"work_template_id"`
	// RootFormat and WorkFormat are those of the layers' files.
	RootFormat string `json:"root_format"`
	WorkFormat string `json:"work_format"`
	// Spec and the digests are the VM's as they were.
	Spec         api.VMSpec `json:"spec"`
	ImageDigest  string     `json:"image_digest"`
	KernelDigest string     `json:"kernel_digest"`
	At           time.Time  `json:"at"`
	// Sums are the CRC32C of the state's files, by name, where the state is kept for long.
	Sums map[string]uint32 `json:"sums"`
	// StoodStill is how long the guest stood; 0 for one that was standing.
	StoodStill time.Duration `json:"stood_still"`
}

// points makes points of VMs, and sees to it that the disks of VMs are what their records say.
type points struct {
	host     host.Host
	store    *store.Store
	records  *Records
	machines *machines
	layers   *layer.Service
	chains   *chains
	newID    func() string
	alive    func(id string) (*liveVM, bool)
	paths    config.Paths
	log      *slog.Logger
	now      func() time.Time
}

// frozen is the point's state in dir, to be thawed.
func (p point) frozen(paths config.Paths, dir string) hypervisor.Frozen {
	f := hypervisor.Frozen{Device: filepath.Join(dir, hypervisor.FrozenDevice), Pages: filepath.Join(dir, hypervisor.FrozenPages)}
	if p.TemplateID != "" {
		f.Memory = paths.Template(p.TemplateID).Memory()
	}
	return f
}

// lieOn makes a VM's record one whose disks lie on the point's layers; the disks are yet to be made, see makeTops.
func (p point) lieOn(vm *api.VM, paths config.Paths) {
	r, vp := &vm.Runtime, paths.VM(vm.ID)
	r.RootLayerID, r.WorkLayerID = p.RootLayerID, p.WorkLayerID
	r.SystemOverlay, r.WorkDiskPath = vp.RootTop(p.RootLayerID), vp.WorkTop(p.WorkLayerID)
	r.RootTemplateID, r.WorkTemplateID = p.RootTemplateID, p.WorkTemplateID
}

// makeTops makes the empty disks of a VM that lies on the point.
func (pt *points) makeTops(ctx context.Context, vm api.VM, p point) error {
	overlays := pt.machines.backend(vm).Overlays
	var g errgroup.Group
	for _, t := range topsOf(vm) {
		format := p.RootFormat
		if t.kind == store.LayerWork {
			format = p.WorkFormat
		}
		g.Go(func() error {
			return overlays.Create(ctx, disk.Spec{
				Path: t.path, Base: pt.layers.Path(t.layer), BaseFormat: format, SizeBytes: t.size, UID: vm.Runtime.UID, GID: vm.Runtime.UID, Give: pt.host.Give,
			})
		})
	}
	return g.Wait()
}

// top is one of a VM's two disks.
type top struct {
	kind   store.LayerKind
	serial string
	path   string
	layer  string // that it lies on
	size   int64
}

func topsOf(vm api.VM) []top {
	return []top{
		{store.LayerRoot, agentapi.SerialRoot, vm.Runtime.SystemOverlay, vm.Runtime.RootLayerID, vm.Spec.RootBytes},
		{store.LayerWork, agentapi.SerialWork, vm.Runtime.WorkDiskPath, vm.Runtime.WorkLayerID, vm.Spec.DiskBytes},
	}
}

// onLayers reports whether one of a VM's disks lies on layers, as few do.
func onLayers(vm api.VM) bool { return vm.Runtime.RootLayerID != "" || vm.Runtime.WorkLayerID != "" }

// layerOf is where a VM's record names the layer that a disk lies on.
func layerOf(vm *api.VM, t top) *string {
	if t.kind == store.LayerWork {
		return &vm.Runtime.WorkLayerID
	}
	return &vm.Runtime.RootLayerID
}

// tempDir makes a directory that is gone after the daemon's next start at the latest.
func (pt *points) tempDir(pattern string) (string, error) {
	if err := os.MkdirAll(pt.paths.Temp(), 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(pt.paths.Temp(), pattern)
}

// forkable finds what runs for a VM of which a point can be made.
func (pt *points) forkable(vm api.VM) (*liveVM, error) {
	l, alive := pt.alive(vm.ID)
	switch {
	case vm.State != api.StateRunning && vm.State != api.StatePaused || !alive:
		return nil, api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
	case !vm.Ready:
		return nil, api.Errorf(api.CodeNotReady, "the guest of VM %s is not ready", vm.Name).WithHint("banger vm logs --console %s", vm.Name)
	}
	return l, asSpecified(vm)
}

// asSpecified refuses a VM whose frozen state would not go with its record.
func asSpecified(vm api.VM) error {
	if len(vm.Pending) == 0 {
		return nil
	}
	return api.Errorf(api.CodeConflict, "VM %s has not taken up its new CPUs or memory yet", vm.Name).WithHint("banger vm restart %s", vm.Name)
}
