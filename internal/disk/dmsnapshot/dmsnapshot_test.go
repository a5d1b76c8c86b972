package dmsnapshot

import (
	"io"
	"log/slog"
	"os"
	"testing"

	"banger/internal/disk/disktest"
	"banger/internal/host/local"
)

// need skips loudly; in the laboratory (make lab), where everything is, that is a failure.
func need(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("LAB") != "" {
		t.Fatalf("cannot run here: %v", err)
	}
	t.Skipf("SKIPPED: %v", err)
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// real is a driver of this machine's devices.
func real(t *testing.T) *Driver {
	t.Helper()
	d := New(Options{Host: local.New(), Log: quiet()})
	need(t, d.CanAttach())
	return d
}

func TestDriver(t *testing.T) {
	d := real(t)
	disktest.RunAttached(t, d, d, t.TempDir())
}
