package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Cont lets the guest run.
func (c *Client) Cont(ctx context.Context) error { return c.Execute(ctx, "cont", nil, nil) }

// RunState is QEMU's RunState: running, prelaunch, paused, io-error, internal-error, shutdown, …
func (c *Client) RunState(ctx context.Context) (string, error) {
	var out struct {
		Status string `json:"status"`
	}
	err := c.Execute(ctx, "query-status", nil, &out)
	return out.Status, err
}

// BlockResize sets the size of a block node in bytes and tells the guest.
func (c *Client) BlockResize(ctx context.Context, node string, bytes int64) error {
	args := struct {
		Node string `json:"node-name"`
		Size int64  `json:"size"`
	}{node, bytes}
	return c.Execute(ctx, "block_resize", args, nil)
}

// BlockStats are bytes since QEMU's start.
type BlockStats struct{ ReadBytes, WriteBytes int64 }

// BlockStats are those of the devices, by device id.
func (c *Client) BlockStats(ctx context.Context) (map[string]BlockStats, error) {
	var out []struct {
		QDev  string `json:"qdev"`
		Stats struct {
			Read  int64 `json:"rd_bytes"`
			Write int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if err := c.Execute(ctx, "query-blockstats", nil, &out); err != nil {
		return nil, err
	}
	stats := make(map[string]BlockStats, len(out))
	for _, o := range out {
		stats[deviceID(o.QDev)] = BlockStats{ReadBytes: o.Stats.Read, WriteBytes: o.Stats.Write}
	}
	return stats, nil
}

// deviceID takes "vd0" out of "/machine/peripheral/vd0/virtio-backend", the name of a device in QEMU's tree of objects.
func deviceID(path string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(path, "/machine/peripheral/"), "/")
	return id
}

// Top is what a device's blocks are in at present.
type Top struct {
	// Node is the block node's name, File the file's that it keeps them in.
	Node, File string
}

// FileNode names the node of the file that a layer's node is in.
func FileNode(node string) string { return "f-" + node }

// Tops are those of all devices, by device id. The file is asked of its own node, made as FileNode says: see plainName; of a long chain
// that description is cut off at 4 KiB.
func (c *Client) Tops(ctx context.Context) (map[string]Top, error) {
	var devices []struct {
		QDev     string `json:"qdev"`
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := c.Execute(ctx, "query-block", nil, &devices); err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	files := make(map[string]string, len(nodes))
	for _, n := range nodes {
		files[n.Name] = n.File
	}
	tops := make(map[string]Top, len(devices))
	for _, d := range devices {
		tops[deviceID(d.QDev)] = Top{Node: d.Inserted.Node, File: files[d.Inserted.Node]}
	}
	return tops, nil
}

// Node is a block node that keeps its blocks in a file, perhaps on top of another one.
type Node struct {
	Name   string `json:"node-name"`
	Driver string `json:"drv"`
	// Described and Backing are QEMU's descriptions of it and of the node below, empty for none: good for comparing only, see
	// plainName.
	Described string `json:"file"`
	Backing   string `json:"backing_file"`
	// File is the file's name.
	File string `json:"-"`
}

// Nodes are all block nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var out []Node
	err := c.Execute(ctx, "query-named-block-nodes", struct {
		Flat bool `json:"flat"`
	}{true}, &out)
	files := make(map[string]string, len(out))
	for _, n := range out {
		files[n.Name] = n.Described
	}
	for n := range out {
		if out[n].File = files[FileNode(out[n].Name)]; out[n].File == "" {
			out[n].File = plainName(out[n].Described)
		}
	}
	return out, err
}

// plainName is the name of the file itself. QEMU describes a layer by all of its options, as "json:{…}", when what lies below it
// has another name than the layer's header says.
func plainName(name string) string {
	text, described := strings.CutPrefix(name, "json:")
	if !described {
		return name
	}
	var d struct {
		File struct {
			Filename string `json:"filename"`
		} `json:"file"`
	}
	if json.Unmarshal([]byte(text), &d) != nil || d.File.Filename == "" {
		return name
	}
	return d.File.Filename
}

// Overlay makes a node of an empty layer. Its base is not opened: a snapshot puts a node under it.
func (c *Client) Overlay(ctx context.Context, node any) error {
	return c.Execute(ctx, "blockdev-add", node, nil)
}

// DropNode closes a node that nothing uses.
func (c *Client) DropNode(ctx context.Context, node string) error {
	return c.Execute(ctx, "blockdev-del", struct {
		Node string `json:"node-name"`
	}{node}, nil)
}

// Switch is one layer put on top of one node.
type Switch struct {
	Node    string `json:"node"`
	Overlay string `json:"overlay"`
}

// BeginSwitch puts all the layers on top of their nodes, or none.
func (c *Client) BeginSwitch(all []Switch) *Pending {
	type action struct {
		Type string `json:"type"`
		Data Switch `json:"data"`
	}
	var args struct {
		Actions []action `json:"actions"`
	}
	for _, s := range all {
		args.Actions = append(args.Actions, action{"blockdev-snapshot", s})
	}
	return c.Begin("transaction", args)
}

// BeginStop stops the guest's CPUs; the answer comes when all requests of its disks have ended and are flushed.
func (c *Client) BeginStop() *Pending { return c.Begin("stop", nil) }

// Reset presses the machine's reset button.
func (c *Client) Reset(ctx context.Context) error { return c.Execute(ctx, "system_reset", nil, nil) }

// BeginCont lets the guest run.
func (c *Client) BeginCont() *Pending { return c.Begin("cont", nil) }

// BeginSetLink plugs a network device in or out.
func (c *Client) BeginSetLink(name string, up bool) *Pending {
	return c.Begin("set_link", struct {
		Name string `json:"name"`
		Up   bool   `json:"up"`
	}{name, up})
}

// AddFD gives QEMU a descriptor; it is then the file /dev/fdset/SET.
func (c *Client) AddFD(ctx context.Context, file *os.File) (set int, err error) {
	var out struct {
		Set int `json:"fdset-id"`
	}
	err = c.BeginWith("add-fd", nil, file).Wait(ctx, &out)
	return out.Set, err
}

// RemoveFD takes it away again.
func (c *Client) RemoveFD(ctx context.Context, set int) error {
	return c.Execute(ctx, "remove-fd", struct {
		Set int `json:"fdset-id"`
	}{set}, nil)
}

// BeginSave writes the state of all devices, but not memory, into a file. live=false leaves the disks active.
func (c *Client) BeginSave(path string) *Pending {
	return c.Begin("xen-save-devices-state", struct {
		Filename string `json:"filename"`
		Live     bool   `json:"live"`
	}{path, false})
}

// BeginIncoming loads what BeginSave wrote, from a descriptor that QEMU has inherited. A MIGRATION event tells the end.
func (c *Client) BeginIncoming(fd int) *Pending {
	return c.Begin("migrate-incoming", struct {
		URI string `json:"uri"`
	}{fmt.Sprintf("fd:%d", fd)})
}

// BeginMigrationEvents switches MIGRATION events on.
func (c *Client) BeginMigrationEvents() *Pending {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return c.Begin("migrate-set-capabilities", struct {
		Capabilities []capability `json:"capabilities"`
	}{[]capability{{"events", true}}})
}

// BeginNoAnnouncements keeps QEMU and the guest's driver from telling the network where the guest is: a state
// that is loaded has the address of the machine that was frozen.
func (c *Client) BeginNoAnnouncements() *Pending {
	return c.Begin("migrate-set-parameters", struct {
		Rounds int `json:"announce-rounds"`
	}{0})
}

// BeginHostAddress asks where in QEMU's own memory the guest's memory is.
func (c *Client) BeginHostAddress(guest uint64) *Pending {
	return c.Begin("human-monitor-command", struct {
		Line string `json:"command-line"`
	}{fmt.Sprintf("gpa2hva %#x", guest)})
}

// Firmware finds the memory that the guest's firmware is in: its range of guest addresses.
func (c *Client) Firmware(ctx context.Context) (from, to uint64, err error) {
	var said string
	err = c.Execute(ctx, "human-monitor-command", struct {
		Line string `json:"command-line"`
	}{"info mtree"}, &said)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(said) {
		// "    00000000ffff0000-00000000ffffffff (prio 0, ram): pc.bios"
		if !strings.HasSuffix(strings.TrimSpace(line), "): pc.bios") {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(line), "%x-%x", &from, &to); err == nil && from < to {
			return from, to, nil
		}
	}
	return 0, 0, errors.New("QEMU tells of no firmware")
}

// HostAddress waits for what BeginHostAddress asked.
func (p *Pending) HostAddress(ctx context.Context) (uint64, error) {
	var said string
	if err := p.Wait(ctx, &said); err != nil {
		return 0, err
	}
	// "Host virtual address for 0x0 (mem) is 0x7f5a93e00000"
	_, at, ok := strings.Cut(strings.TrimSpace(said), " is 0x")
	n, err := strconv.ParseUint(at, 16, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("cannot find the guest's memory: %.80q", said)
	}
	return n, nil
}
