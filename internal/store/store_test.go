package store

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"banger/api"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func add(t *testing.T, s *Store, id, name string) api.VM {
	t.Helper()
	vm, created, err := s.InsertVM(t.Context(), api.VM{ID: id, Name: name, State: api.StateStopped}, "{}", func(*api.VM, Taken) error { return nil })
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	return vm
}

func TestNamesAreUniqueAndReusable(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	add(t, s, "aaaaaaaaaaaa", "web")
	_, _, err := s.InsertVM(t.Context(), api.VM{ID: "bbbbbbbbbbbb", Name: "web"}, "{}", func(*api.VM, Taken) error { return nil })
	if api.CodeOf(err) != api.CodeExists {
		t.Fatalf("a second web: %v", err)
	}
	if err := s.DeleteVM(t.Context(), "aaaaaaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	add(t, s, "bbbbbbbbbbbb", "web")
}

func TestCreateIsIdempotentOnTheClientsID(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	insert := func(id, request string) (api.VM, bool, error) {
		return s.InsertVM(t.Context(), api.VM{ID: id, Name: id, ClientID: "job-1"}, request, func(*api.VM, Taken) error { return nil })
	}
	first, created, err := insert("aaaaaaaaaaaa", `{"cpus":1}`)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	again, created, err := insert("bbbbbbbbbbbb", `{"cpus":1}`)
	if err != nil || created || again.ID != first.ID {
		t.Fatalf("same request: %s, created %v, %v", again.ID, created, err)
	}
	if _, _, err = insert("cccccccccccc", `{"cpus":2}`); api.CodeOf(err) != api.CodeExists {
		t.Fatalf("another request: %v", err)
	}
}

func TestFindByNameAndPrefix(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	add(t, s, "abcdaaaaaaaa", "one")
	add(t, s, "abcdbbbbbbbb", "abce")
	for ref, want := range map[string]string{"one": "abcdaaaaaaaa", "abcdaaaaaaaa": "abcdaaaaaaaa", "abcdb": "abcdbbbbbbbb", "abce": "abcdbbbbbbbb"} {
		if vm, err := s.FindVM(t.Context(), ref); err != nil || vm.ID != want {
			t.Errorf("%s: %s, %v", ref, vm.ID, err)
		}
	}
	for ref, want := range map[string]api.Code{"abcd": api.CodeInvalid, "abc": api.CodeNotFound, "%": api.CodeNotFound, "____": api.CodeNotFound} {
		if vm, err := s.FindVM(t.Context(), ref); api.CodeOf(err) != want {
			t.Errorf("%s: %s, %v; want %s", ref, vm.ID, err, want)
		}
	}
}

func TestListByState(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	for i, state := range []api.State{api.StateStopped, api.StateRunning, api.StatePaused, api.StateStopped} {
		id := fmt.Sprintf("aaaaaaaaaaa%d", i)
		add(t, s, id, id)
		if _, err := s.UpdateVM(t.Context(), id, func(vm *api.VM) ([]api.Event, error) { vm.State = state; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		states []api.State
		want   string
	}{{nil, "0123"}, {[]api.State{api.StateStopped}, "03"}, {[]api.State{api.StateRunning, api.StatePaused}, "12"}, {[]api.State{api.StateDeleting}, ""}} {
		vms, err := s.VMsIn(t.Context(), c.states...)
		got := ""
		for _, vm := range vms {
			got += vm.ID[11:]
		}
		if err != nil || got != c.want {
			t.Errorf("%v: %q, %v; want %q", c.states, got, err, c.want)
		}
	}
	counts, err := s.CountVMs(t.Context())
	if err != nil || len(counts) != 3 || counts[api.StateStopped] != 2 || counts[api.StatePaused] != 1 {
		t.Errorf("counts are %v, %v", counts, err)
	}
}

func TestCursorIsNeverGivenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	add(t, s, "aaaaaaaaaaaa", "web")
	if _, err := s.db.Exec(`DELETE FROM events`); err != nil { // as pruning would, taken to the extreme
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path)
	if err := s.DeleteVM(t.Context(), "aaaaaaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	events, err := s.Events(t.Context(), 1, 10)
	if err != nil || len(events) != 1 || events[0].Cursor != 2 || events[0].Kind != "vm.deleted" {
		t.Fatalf("got %+v, %v", events, err)
	}
}

func TestConcurrentReservationsNeverShare(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			_, _, err := s.InsertVM(context.Background(), api.VM{ID: fmt.Sprintf("vm%010d", i)}, "{}", func(vm *api.VM, taken Taken) error {
				vm.Runtime.UID = 1000 + len(taken.UIDs)
				vm.Name = fmt.Sprintf("n%d", len(taken.Names))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	vms, err := s.VMs(t.Context())
	if err != nil || len(vms) != 20 {
		t.Fatal(len(vms), err)
	}
	seen := map[int]bool{}
	for _, vm := range vms {
		if seen[vm.Runtime.UID] {
			t.Errorf("uid %d twice", vm.Runtime.UID)
		}
		seen[vm.Runtime.UID] = true
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	if _, err := s.db.Exec(`PRAGMA user_version = 99`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err := Open(t.Context(), path, time.Now); api.CodeOf(err) != api.CodeConflict {
		t.Fatalf("opened: %v, %v", s, err)
	}
}

func TestEveryConnectionHasThePragmas(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	for synchronous, db := range map[string]*sql.DB{"2": s.db, "1": s.soon} {
		for range 3 {
			conn, err := db.Conn(t.Context()) // held open, so that each is a new one
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": synchronous, "busy_timeout": "10000", "foreign_keys": "1"} {
				var got string
				if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
				}
			}
		}
	}
}

// TestWhatHasToLast: only what no crash of the host leaves in any case is written without waiting for the disk.
func TestWhatHasToLast(t *testing.T) {
	running, suspended := api.StateRunning, api.StateSuspended
	for name, c := range map[string]struct {
		autoRemove  bool
		from, to    api.State
		snapshots   []string
		keep, waits bool
	}{
		"a VM that is kept":             {from: running, to: running, waits: true},
		"one that goes by itself":       {autoRemove: true, from: running, to: running},
		"its end":                       {autoRemove: true, from: running, to: api.StateDeleting},
		"its first start":               {autoRemove: true, from: api.StateStopped, to: api.StateStarting, waits: true},
		"its suspension":                {autoRemove: true, from: running, to: suspended, waits: true},
		"going on":                      {autoRemove: true, from: suspended, to: running, waits: true},
		"one that has snapshots":        {autoRemove: true, from: running, to: running, snapshots: []string{"s"}, waits: true},
		"one that is to be kept by now": {autoRemove: true, from: running, to: running, keep: true, waits: true},
	} {
		s := open(t, filepath.Join(t.TempDir(), "db"))
		for _, db := range []*sql.DB{s.db, s.soon} {
			db.SetMaxOpenConns(1) // changes are counted by connection
		}
		changes := func(db *sql.DB) (n int) {
			if err := db.QueryRowContext(t.Context(), "SELECT total_changes()").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		vm := api.VM{ID: "aaaaaaaaaaaa", Name: "a", State: c.from, Spec: api.VMSpec{AutoRemove: c.autoRemove}, Snapshots: c.snapshots}
		if _, _, err := s.InsertVM(t.Context(), vm, "{}", func(*api.VM, Taken) error { return nil }); err != nil {
			t.Fatal(err)
		}
		durable, soon := changes(s.db), changes(s.soon)
		got, err := s.UpdateVM(t.Context(), vm.ID, func(vm *api.VM) ([]api.Event, error) {
			vm.State, vm.Spec.AutoRemove = c.to, c.autoRemove && !c.keep
			return nil, nil
		})
		if err != nil || got.State != c.to {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if waits := changes(s.db) > durable; waits != c.waits || changes(s.soon) > soon && waits {
			t.Errorf("%s: waits for the disk: %v", name, waits)
		}
	}
}
