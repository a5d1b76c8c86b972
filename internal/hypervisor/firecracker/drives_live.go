package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/hypervisor"
)

// GrowDrive makes the disk behind a drive larger and tells the guest.
func (i *instance) GrowDrive(ctx context.Context, serial string, bytes int64) error {
	return i.do(ctx, "grow drive "+serial+" of", func(ctx context.Context, ps *process) error {
		n, err := i.driveOf(serial)
		if err != nil {
			return err
		}
		if name := ps.drives[n].DMName; name != "" {
			if err := i.h.o.Attacher.GrowAttached(ctx, name, bytes); err != nil {
				return err
			}
		} else if err := growFile(i.m.Drives[n].Path, bytes); err != nil {
			return err
		}
		return i.tellSize(ctx, ps, n)
	})
}

// tellSize lets Firecracker open a drive again: it looks at its size then, and says so to the guest.
func (i *instance) tellSize(ctx context.Context, ps *process, n int) error {
	return ps.api.patch(ctx, "/drives/"+driveID(n), driveUpdate{driveID(n), "/" + driveID(n)})
}

func growFile(path string, bytes int64) error {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() >= bytes {
		return err
	}
	return os.Truncate(path, bytes)
}

// DriveFiles are the files that the drives' newest layers are in.
func (i *instance) DriveFiles(ctx context.Context) (map[string]string, error) {
	out := make(map[string]string, len(i.m.Drives))
	err := i.do(ctx, "tell the drives' files of", func(ctx context.Context, ps *process) error {
		for n, d := range i.m.Drives {
			out[d.Serial] = d.Path
			if name := ps.drives[n].DMName; name != "" {
				top, err := i.h.o.Attacher.Top(ctx, name)
				if err != nil {
					return err
				}
				out[d.Serial] = top
			}
		}
		return nil
	})
	return out, err
}

// Flatten leaves it to the disk: Firecracker does not notice.
func (i *instance) Flatten(ctx context.Context, serial, base string) error {
	n, err := i.driveOf(serial)
	if err != nil {
		return i.h.wrap(&i.m, "flatten a drive of", err)
	}
	name := i.current().drives[n].DMName
	if name == "" {
		if base != "" {
			return i.h.wrap(&i.m, "flatten a drive of", api.Errorf(api.CodeNotFound, "%s does not lie below a plain file", base))
		}
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(i.life, func() { cancel(context.Cause(i.life)) })()
	if err := i.h.o.Attacher.Flatten(ctx, name, base); err != nil {
		return i.h.wrap(&i.m, "flatten a drive of", err)
	}
	return nil
}

// watchDrives tells of devices that break, and stops the guest then: what it reads and writes would fail.
func (i *instance) watchDrives() {
	ps := i.current()
	for _, d := range ps.drives {
		if d.DMName != "" {
			go i.watchDrive(ps, d.DMName)
		}
	}
}

func (i *instance) watchDrive(ps *process, name string) {
	reason, err := i.h.o.Attacher.AwaitBroken(ps.life, name)
	if err != nil || ps.life.Err() != nil {
		return
	}
	if err := i.Pause(ps.life); err != nil {
		i.h.o.Log.Warn("the guest on a broken disk was not stopped", "vm", i.m.ID, "error", err)
	}
	i.emit(hypervisor.EventPaused, reason)
}

// DriveStats are the host's figures of the devices, and Firecracker's of plain files.
func (i *instance) DriveStats(ctx context.Context) (map[string]hypervisor.DriveStats, error) {
	out := make(map[string]hypervisor.DriveStats, len(i.m.Drives))
	err := i.do(ctx, "read the drives' statistics of", func(ctx context.Context, ps *process) error {
		var told map[string]hypervisor.DriveStats
		for n, d := range i.m.Drives {
			if a := ps.drives[n]; a.DMName != "" {
				s, err := deviceStats(a.Major, a.Minor)
				if err != nil {
					return err
				}
				out[d.Serial] = s
				continue
			}
			if told == nil {
				if err := ps.api.act(ctx, "FlushMetrics"); err != nil {
					return err
				}
				b, err := os.ReadFile(metricsFile(&i.m))
				if err != nil {
					return err
				}
				told = sumMetrics(b)
			}
			out[d.Serial] = told["block_"+driveID(n)]
		}
		return nil
	})
	return out, err
}

// deviceStats reads the kernel's figures (its Documentation/block/stat.rst): sectors read are the third, sectors written the seventh.
func deviceStats(major, minor uint32) (hypervisor.DriveStats, error) {
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", major, minor))
	if err != nil {
		return hypervisor.DriveStats{}, err
	}
	f := strings.Fields(string(b))
	if len(f) < 7 {
		return hypervisor.DriveStats{}, fmt.Errorf("cannot parse a block device's figures: %q", b)
	}
	read, err1 := strconv.ParseInt(f[2], 10, 64)
	written, err2 := strconv.ParseInt(f[6], 10, 64)
	return hypervisor.DriveStats{ReadBytes: read * 512, WriteBytes: written * 512}, errors.Join(err1, err2)
}

// sumMetrics adds up Firecracker's metrics, a line of JSON for each flush, with what came to pass since the one before. Where the
// file's front has been cut off, its figures are lost.
func sumMetrics(b []byte) map[string]hypervisor.DriveStats {
	out := map[string]hypervisor.DriveStats{}
	for line := range bytes.Lines(b) {
		var all map[string]json.RawMessage
		if json.Unmarshal(bytes.TrimLeft(line, "\x00"), &all) != nil {
			continue
		}
		for name, text := range all {
			var one struct {
				Read  int64 `json:"read_bytes"`
				Write int64 `json:"write_bytes"`
			}
			if strings.HasPrefix(name, "block_") && json.Unmarshal(text, &one) == nil {
				s := out[name]
				out[name] = hypervisor.DriveStats{ReadBytes: s.ReadBytes + one.Read, WriteBytes: s.WriteBytes + one.Write}
			}
		}
	}
	return out
}
