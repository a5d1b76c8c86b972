package store

import (
	"path/filepath"
	"testing"
	"time"

	"banger/api"
)

// TestHypervisorMovesIntoTheSpec: records of before there was a choice name theirs among what was decided for the VM.
func TestHypervisorMovesIntoTheSpec(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	vm := add(t, s, "aaaaaaaaaaaa", "web")
	if _, err := s.InsertSnapshot(t.Context(), api.Snapshot{ID: "bbbbbbbbbbbb", VMID: vm.ID, Name: "s1"}); err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{
		`UPDATE vms SET record = json_set(json_remove(record, '$.spec.hypervisor'), '$.runtime.hypervisor', 'qemu')`,
		`UPDATE snapshots SET record = json_remove(record, '$.spec.hypervisor')`,
		`PRAGMA user_version = 5`,
	} {
		if _, err := s.db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	vm, err = s.VM(t.Context(), vm.ID)
	if err != nil || vm.Spec.Hypervisor != "qemu" {
		t.Errorf("the VM's is %q, %v", vm.Spec.Hypervisor, err)
	}
	snap, err := s.Snapshot(t.Context(), vm, "s1")
	if err != nil || snap.Spec.Hypervisor != "qemu" {
		t.Errorf("the snapshot's is %q, %v", snap.Spec.Hypervisor, err)
	}
}
