package dmsnapshot

import (
	"io"
	"log/slog"
	"testing"

	"banger/internal/disk/disktest"
	"banger/internal/host/local"
	"banger/internal/loud"
)

// needDevices skips a test where the kernel puts no disks together.
func needDevices(t *testing.T, d *Driver) {
	t.Helper()
	if err := d.CanAttach(); err != nil {
		loud.SkipOutsideLab(t, "%v", err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// real is a driver of this machine's devices.
func real(t *testing.T) *Driver {
	t.Helper()
	d := New(Options{Host: local.New(), Log: quiet()})
	needDevices(t, d)
	return d
}

func TestDriver(t *testing.T) {
	d := real(t)
	disktest.RunAttached(t, d, d, t.TempDir())
}
