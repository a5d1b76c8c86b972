package layer_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/layer"
	"banger/internal/store"
)

// room is a service with a store and one VM.
type room struct {
	*testing.T
	*layer.Service
	store *store.Store
	paths config.Paths
}

func newRoom(t *testing.T) *room {
	t.Helper()
	paths := config.Paths{State: t.TempDir()}
	st, err := store.Open(t.Context(), paths.Database(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	if _, _, err := st.InsertVM(t.Context(), api.VM{ID: "vm1", Name: "x"}, "", func(*api.VM, store.Taken) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(paths.VM("vm1").Private(), 0o700); err != nil {
		t.Fatal(err)
	}
	return &room{t, layer.New(layer.Options{Store: st, Paths: paths}), st, paths}
}

// disk makes a file like a disk of the VM.
func (r *room) disk(name string) string {
	r.Helper()
	path := filepath.Join(r.paths.VM("vm1").Private(), name)
	if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
		r.Fatal(err)
	}
	return path
}

// onto records a layer, and that the VM's root lies on it.
func (r *room) onto(id, parent string) {
	r.Helper()
	l := store.Layer{ID: id, Parent: parent, Kind: store.LayerRoot, VMID: "vm1", CreatedAt: time.Now()}
	if _, err := r.store.AddLayers(r.Context(), []store.Layer{l}, "vm1", func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.RootLayerID = id
		return nil, nil
	}); err != nil {
		r.Fatal(err)
	}
}

// want sweeps, and wants just these layers to be left.
func (r *room) want(ids ...string) {
	r.Helper()
	if err := r.Sweep(r.Context()); err != nil {
		r.Fatal(err)
	}
	entries, err := os.ReadDir(r.paths.Layers())
	if err != nil {
		r.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		files = append(files, e.Name())
	}
	if !slices.Equal(files, ids) {
		r.Errorf("files %v, want %v", files, ids)
	}
}

func TestSealedAndUnsealed(t *testing.T) {
	r := newRoom(t)
	path := r.disk("root")
	if err := r.Seal("a", path); err != nil {
		t.Fatal(err)
	}
	one, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.Stat(r.Path("a"))
	if err != nil || !os.SameFile(one, two) || two.Mode() != 0o444 {
		t.Errorf("the layer: %v, %v", two, err)
	}
	if err := r.Unseal("a", path, 0); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the disk: %v, %v", fi, err)
	}
	r.want()
	// What is no plain file of one name is no disk.
	if err := os.Symlink("/etc/passwd", filepath.Join(filepath.Dir(path), "link")); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal("b", filepath.Join(filepath.Dir(path), "link")); err == nil {
		t.Error("a link became a layer")
	}
	if err := os.Link(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal("b", path); err == nil {
		t.Error("a file with two names became a layer")
	}
	r.want()
}

func TestSweep(t *testing.T) {
	r := newRoom(t)
	for _, id := range []string{"a", "b", "c", "held"} {
		if err := r.Seal(id, r.disk(id)); err != nil {
			t.Fatal(err)
		}
	}
	release := r.Hold("held", "not there", "")
	r.onto("a", "")
	r.onto("b", "a")
	r.want("a", "b", "held") // c has no record
	release()
	release()
	r.want("a", "b")
	again := r.Hold("a")
	// The VM no longer lies on b: a is held, and b goes.
	if _, err := r.store.UpdateVM(t.Context(), "vm1", func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.RootLayerID = ""
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	r.want("a")
	again()
	r.want()
	if all, err := r.store.Layers(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("records: %v, %v", all, err)
	}
}
