package firecracker

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/disk/dmsnapshot"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

// attachTo gives a hypervisor disks that can move on to layers.
func attachTo(o *Options, h host.Host) {
	o.Attacher = dmsnapshot.New(dmsnapshot.Options{Host: h, Log: slog.New(slog.DiscardHandler)})
}

// layered puts a machine's writable drives on such disks.
func layered(t testing.TB, m hypervisor.Machine) hypervisor.Machine {
	t.Helper()
	for n, d := range m.Drives {
		if !d.ReadOnly {
			m.Drives[n] = layer(t, d, filepath.Join(filepath.Dir(d.Path), d.Serial), m.UID)
		}
	}
	return m
}

// layer puts an empty overlay over a disk that nobody writes any more.
func layer(t testing.TB, base hypervisor.Drive, path string, _ int) hypervisor.Drive {
	t.Helper()
	driver := dmsnapshot.New(dmsnapshot.Options{})
	if err := os.Chmod(base.Path, 0o444); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(base.Path)
	if err != nil {
		t.Fatal(err)
	}
	size := fi.Size()
	if base.Format == driver.Format() {
		if size, err = driver.Size(bounded(t, time.Minute), base.Path); err != nil {
			t.Fatal(err)
		}
	}
	err = driver.Create(bounded(t, time.Minute), disk.Spec{Path: path, Base: base.Path, BaseFormat: base.Format, SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	base.Path, base.Format = path, driver.Format()
	return base
}
