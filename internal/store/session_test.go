package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"banger/api"
)

func TestSessions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := open(t, filepath.Join(t.TempDir(), "db"))
	add(t, s, "a", "one")
	add(t, s, "b", "two")
	put := func(vm string, want ...api.Session) {
		t.Helper()
		if err := s.UpdateSessions(ctx, vm, func(api.VM, []api.Session) ([]api.Session, []api.Event, error) {
			return want, []api.Event{{Kind: "session.started"}}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(vm string) (out string) {
		t.Helper()
		list, err := s.Sessions(ctx, vm)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			out += x.ID + "=" + x.Name + ":" + string(x.State) + " "
		}
		return out
	}
	first, second := api.Session{ID: "1", Name: "x", VMID: "a", State: api.SessionRunning}, api.Session{ID: "2", Name: "y", VMID: "a"}
	put("a", first, second)
	put("b", first) // a fork's has the same id
	first.State = api.SessionExited
	put("a", first, second)
	if got := names("a"); got != "1=x:exited 2=y: " {
		t.Error(got)
	}
	// A name passes from one to another.
	second.Name = "z"
	put("a", api.Session{ID: "3", Name: "x"}, second)
	if got := names("a"); got != "3=x: 2=z: " && got != "2=z: 3=x: " {
		t.Error(got)
	}
	broken := errors.New("broken")
	err := s.UpdateSessions(ctx, "a", func(_ api.VM, have []api.Session) ([]api.Session, []api.Event, error) {
		return nil, nil, broken
	})
	if !errors.Is(err, broken) || names("a") == "" {
		t.Errorf("%v, and %q is left", err, names("a"))
	}
	if err := s.UpdateSessions(ctx, "nobody", nil); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
	// They go with their VM.
	if err := s.DeleteVM(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if got := names(""); got != "1=x:running " {
		t.Error(got)
	}
	if cursor, err := s.LastCursor(ctx); err != nil || cursor < 6 {
		t.Errorf("%d %v", cursor, err)
	}
}
