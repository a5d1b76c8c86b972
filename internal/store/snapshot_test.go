package store

import (
	"path/filepath"
	"slices"
	"testing"

	"banger/api"
)

func TestSnapshots(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	vm := add(t, s, "aaaaaaaaaaaa", "web")
	if vm.Snapshots == nil {
		t.Error("a new VM's list of snapshots is null on the wire")
	}
	insert := func(id, name string) (api.Snapshot, error) {
		return s.InsertSnapshot(t.Context(), api.Snapshot{ID: id, VMID: vm.ID, Name: name, RootLayerID: "root-" + id})
	}
	names := func() []string {
		vm, err := s.VM(t.Context(), vm.ID)
		if err != nil {
			t.Fatal(err)
		}
		return vm.Snapshots
	}
	if snap, err := insert("bbbbbbbbbbbb", ""); err != nil || snap.Name != "s1" || snap.VM != "web" {
		t.Errorf("%+v, %v", snap, err)
	}
	if _, err := insert("cccccccccccc", "clean"); err != nil {
		t.Fatal(err)
	}
	if _, err := insert("dddddddddddd", "clean"); api.CodeOf(err) != api.CodeExists {
		t.Errorf("a second clean: %v", err)
	}
	if snap, err := insert("eeeeeeeeeeee", ""); err != nil || snap.Name != "s2" {
		t.Errorf("%+v, %v", snap, err)
	}
	if got := names(); !slices.Equal(got, []string{"s1", "clean", "s2"}) {
		t.Errorf("the VM's record names %v", got)
	}
	// A VM cannot go before its snapshots: they would lie about in the table without one.
	if err := s.DeleteVM(t.Context(), vm.ID); err == nil {
		t.Error("the VM's record is gone, and its snapshots' are not")
	}
	first, err := s.Snapshot(t.Context(), vm, "s1")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.DeleteSnapshot(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(); !slices.Equal(got, []string{"clean", "s2"}) {
		t.Errorf("the VM's record names %v", got)
	}
	if _, err := s.Snapshot(t.Context(), vm, "s1"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("s1 after its end: %v", err)
	}
	list, err := s.SnapshotsOf(t.Context(), vm.ID)
	if err != nil || len(list) != 2 || list[0].Name != "clean" {
		t.Errorf("%v, %v", list, err)
	}
}

// TestSnapshotsKeepLayers: a layer that only a snapshot lies on is in use.
func TestSnapshotsKeepLayers(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	vm := add(t, s, "aaaaaaaaaaaa", "web")
	layers := []Layer{{ID: "base", Kind: LayerRoot}, {ID: "top", Parent: "base", Kind: LayerRoot}, {ID: "other", Kind: LayerWork}}
	if _, err := s.AddLayers(t.Context(), layers, vm.ID, func(*api.VM) ([]api.Event, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	snap, err := s.InsertSnapshot(t.Context(), api.Snapshot{ID: "bbbbbbbbbbbb", VMID: vm.ID, RootLayerID: "top"})
	if err != nil {
		t.Fatal(err)
	}
	left, err := s.SweepLayers(t.Context(), nil)
	if err != nil || !left["top"] || !left["base"] || left["other"] {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := s.DeleteSnapshot(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	if left, err = s.SweepLayers(t.Context(), nil); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
