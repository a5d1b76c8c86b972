package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"banger/api"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

// VMHandles is what is true about a VM on this host at this moment. It is kept in
// memory and in handles.json, written before the thing it names is used, and never in
// SQLite nor on the wire. Whatever it names can also be found by names derived
// from the VM's id, so that a lost file strands nothing.
type VMHandles struct {
	// VMM is the process of the hypervisor; zero if there is none.
	VMM host.Process `json:"vmm"`
	// Disks are the drives that are block devices of the host.
	Disks []hypervisor.Disk `json:"disks,omitempty"`
	// NetHelper is the process that carries a user-mode network; zero if there is none.
	NetHelper host.Process `json:"net_helper"`
	// TapDevice is the name of the tap; empty if there is none.
	TapDevice string `json:"tap_device"`
}

// handleCache is the VMHandles of all VMs. Safe for concurrent use.
type handleCache struct {
	paths config.Paths

	// mu protects the following, and orders the writes of each file.
	mu   sync.Mutex
	byID map[string]VMHandles
}

// Get reads the handles of a VM, from its file if need be. A missing file is no
// handles; a damaged one is an error, and the caller goes by derived names.
func (c *handleCache) Get(id string) (VMHandles, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.get(id)
}

func (c *handleCache) get(id string) (VMHandles, error) {
	if h, ok := c.byID[id]; ok {
		return h, nil
	}
	text, err := os.ReadFile(c.paths.VM(id).Handles())
	if errors.Is(err, fs.ErrNotExist) {
		return VMHandles{}, nil
	} else if err != nil {
		return VMHandles{}, err
	}
	h, err := parseHandles(text)
	if err != nil {
		return VMHandles{}, fmt.Errorf("handles.json of VM %s is damaged: %w", id, err)
	}
	c.put(id, h)
	return h, nil
}

// Set changes the handles of a VM by fn and returns when they are in their file.
func (c *handleCache) Set(id string, fn func(*VMHandles)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, err := c.get(id)
	if err != nil {
		h = VMHandles{} // damaged: what it named has been cleaned up by derived names
	}
	fn(&h)
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	// Not fsynced: it is for a daemon that comes after this one. After a crash of the host nothing that it names is left.
	if err := durable.ReplaceFile(c.paths.VM(id).Handles(), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot record the handles of VM %s: %w", id, err)
	}
	c.put(id, h)
	return nil
}

// Clear forgets the handles of a VM, on disk too.
func (c *handleCache) Clear(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, id)
	if err := os.Remove(c.paths.VM(id).Handles()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (c *handleCache) put(id string, h VMHandles) {
	if c.byID == nil {
		c.byID = make(map[string]VMHandles)
	}
	c.byID[id] = h
}

func parseHandles(text []byte) (VMHandles, error) {
	var h VMHandles
	if err := json.Unmarshal(text, &h); err != nil {
		return VMHandles{}, err
	}
	for _, p := range []host.Process{h.VMM, h.NetHelper} {
		// 1 is init; a PID of ours is above it, and one without start time names nobody.
		if p != (host.Process{}) && (p.PID <= 1 || p.StartTime == 0) {
			return VMHandles{}, api.Errorf(api.CodeInternal, "process %d with start time %d", p.PID, p.StartTime)
		}
	}
	return h, nil
}
