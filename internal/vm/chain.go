package vm

import (
	"context"
	"path/filepath"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/store"
)

// Chains of layers are kept short: each layer costs a thaw some two milliseconds. A chain of shortenAt layers is made short
// shortenAfter a point, without anybody waiting; at mustShorten a further point waits for it.
// With the VM's own disk on top and its template and image below, a chain has three files more.
const (
	shortenAt   = 8
	mustShorten = 13
	// deepest is where patience ends: the next point waits for as long as it takes.
	deepest = 14
)

// shortening is a plan to make one disk's chain short.
type shortening struct {
	top
	// base is the file that the disk will lie on, to its id as a layer; an empty id is for what lies below all layers.
	base  string
	to    string
	bytes int64 // about what is copied
	done  bool  // on the VMM's word
}

// chainOf are the layers that a disk lies on, the newest first.
func chainOf(layers map[string]store.Layer, id string) []store.Layer {
	var chain []store.Layer
	for id != "" && len(chain) < len(layers) {
		l, ok := layers[id]
		if !ok {
			break
		}
		chain = append(chain, l)
		id = l.Parent
	}
	return chain
}

// depth is how many layers the deeper one of a VM's disks lies on.
func depth(layers map[string]store.Layer, vm api.VM) int {
	return max(len(chainOf(layers, vm.Runtime.RootLayerID)), len(chainOf(layers, vm.Runtime.WorkLayerID)))
}

// planShort says how chains of at least so many layers are made short; nothing where they are, or the host's disk has no room for it.
func (c *chains) planShort(vm api.VM, layers map[string]store.Layer, least int) []shortening {
	var plans []shortening
	for _, t := range topsOf(vm) {
		chain := chainOf(layers, t.layer)
		if len(chain) < least {
			continue
		}
		plan := c.planDisk(vm, t, chain)
		if free, err := disk.Free(c.paths.State); err == nil && plan.bytes+shortenRoom < free {
			plans = append(plans, plan)
		}
	}
	return plans
}

// shortenRoom is what must be free on the host beside what is copied: guests stop on a full disk.
const shortenRoom = 256 << 20

func (c *chains) planDisk(vm api.VM, t top, chain []store.Layer) shortening {
	plan := shortening{top: t}
	sizes := make([]int64, len(chain))
	for n, l := range chain {
		sizes[n] = used(c.layers.Path(l.ID))
	}
	n := mergeCount(sizes)
	if n == len(chain) && !c.machines.backend(vm).OneFormat() {
		n-- // the lowest layer is a whole disk, in another format
	}
	for _, size := range sizes[:n] {
		plan.bytes += size
	}
	if n < len(chain) {
		plan.to, plan.base = chain[n].ID, c.layers.Path(chain[n].ID)
		return plan
	}
	plan.base = c.belowLayers(vm, t.kind)
	return plan
}

// mergeCount says how many layers, of these sizes from the newest on, to copy together. It is all of them, unless a large one lies below: what
// is copied would be copied again each time, so one larger than twice all above it stays, as long as few such stay.
func mergeCount(sizes []int64) int {
	const least, stay = shortenAt / 2, shortenAt / 2
	var sum int64
	for n, size := range sizes {
		if n >= least && len(sizes)-n <= stay && size > 2*sum {
			return n
		}
		sum += size
	}
	return len(sizes)
}

// belowLayers is what all of a VM's disk lies on in the end; empty for nothing.
func (c *chains) belowLayers(vm api.VM, kind store.LayerKind) string {
	r := vm.Runtime
	base := ""
	switch {
	case kind == store.LayerRoot && r.RootTemplateID != "":
		base = c.paths.Template(r.RootTemplateID).Root()
	case kind == store.LayerRoot:
		base = c.images.RootPath(r.ImageDigest)
	case r.WorkTemplateID != "":
		base = c.paths.Template(r.WorkTemplateID).Work()
	default:
		return ""
	}
	if abs, err := filepath.Abs(base); err == nil { // as headers have it
		return abs
	}
	return base
}

// layerRecords are all layers, for a chain's sake only: who cannot read them makes none short.
func (c *chains) layerRecords(ctx context.Context) map[string]store.Layer {
	layers, err := c.store.Layers(ctx)
	if err != nil {
		c.log.Warn("cannot read the layers", "error", err)
	}
	return layers
}
