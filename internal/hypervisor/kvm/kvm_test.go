package kvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestObstacleGoes: whoever follows the hint while the daemon runs is believed.
func TestObstacleGoes(t *testing.T) {
	dir := t.TempDir()
	cpuinfo, device := filepath.Join(dir, "cpuinfo"), filepath.Join(dir, "kvm")
	if err := os.WriteFile(cpuinfo, []byte("processor\t: 0\nflags\t\t: fpu svm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := At(cpuinfo, device)
	if reason, hint := d.Obstacle(); !strings.Contains(reason, "no /dev/kvm") || hint != "sudo modprobe kvm_amd" {
		t.Errorf("without a device: %q, %q", reason, hint)
	}
	before := d.State()
	if err := os.WriteFile(device, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(device, 0o666); err != nil {
		t.Fatal(err)
	}
	if reason, hint := d.Obstacle(); reason != "" || hint != "" {
		t.Errorf("with a device: %q, %q", reason, hint)
	}
	if d.State() == before {
		t.Errorf("its state is %q as before", before)
	}
}
