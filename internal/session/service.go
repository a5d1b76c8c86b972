// Package session owns the long-lived commands in guests: their records, which it refreshes from what each guest
// says, and the ways to them: start, logs, attach, send, stop, wait. It imports guest, store and api, is told
// by functions how to reach a VM, and is imported by server and daemon.
//
// The guest's own directory of a session is the truth, the record what is shown when the guest cannot be asked.
package session

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
	"banger/internal/store"
)

// Guest is a VM whose agent can be called until Close.
type Guest struct {
	VM    api.VM
	Agent *guest.Client
	// Why may know a better reason for an error of a call.
	Why   func(error) error
	Close func()
}

// Options are what a Service stands on.
type Options struct {
	Store *store.Store
	// VM finds a VM. Reach is for what a user does in its guest: it counts as a use, and wakes the VM. Look only looks.
	VM    func(ctx context.Context, ref string) (api.VM, error)
	Reach func(ctx context.Context, ref string) (Guest, error)
	Look  func(ctx context.Context, ref string) (Guest, error)
	// Events follows what happens to VMs after a cursor; Wake tells those who do of events that are written here.
	Events func(ctx context.Context, after int64, follow bool, fn func(api.Event) error) error
	Wake   func()
	Log    *slog.Logger
	Now    func() time.Time
	NewID  func() string
	// LogLimit is what a guest keeps of each stream of a session, in bytes.
	LogLimit int64
}

// Service is all sessions of one daemon's VMs. Safe for concurrent use.
type Service struct {
	Options
	background sync.WaitGroup
	life       context.Context
	end        context.CancelFunc
}

// New makes the service.
func New(o Options) *Service {
	s := &Service{Options: o}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends what goes on in the background.
func (s *Service) Close() {
	s.end()
	s.background.Wait()
}

// lookTime bounds how long a guest is asked for its sessions by those who only look.
const lookTime = 10 * time.Second

// List is the sessions of a VM, or of all where ref is empty: as the guests say, where they can be asked.
func (s *Service) List(ctx context.Context, ref string) ([]api.Session, error) {
	if ref != "" {
		vm, err := s.VM(ctx, ref)
		if err != nil {
			return nil, err
		}
		return s.refresh(ctx, vm)
	}
	all, err := s.Store.Sessions(ctx, "")
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, session := range all {
		if !slices.Contains(ids, session.VMID) {
			ids = append(ids, session.VMID)
		}
	}
	lists := make([][]api.Session, len(ids))
	var asking sync.WaitGroup
	for i, id := range ids {
		asking.Go(func() {
			if vm, err := s.VM(ctx, id); err == nil { // else it has just been deleted
				lists[i], _ = s.refresh(ctx, vm)
			}
		})
	}
	asking.Wait()
	return slices.Concat(append([][]api.Session{{}}, lists...)...), ctx.Err()
}

// refresh brings the records of a VM's sessions up to date, and returns them with the newest figures. A guest that
// does not answer leaves them as they are.
func (s *Service) refresh(ctx context.Context, vm api.VM) ([]api.Session, error) {
	answer, heard := s.ask(ctx, vm)
	var show []api.Session
	var events []api.Event
	err := s.Store.UpdateSessions(ctx, vm.ID, func(now api.VM, have []api.Session) (want []api.Session, _ []api.Event, err error) {
		// If the VM has stopped meanwhile, the answer is still the newest word there is.
		want, show, events = update(now, have, answer, heard, s.Now().UTC())
		return want, events, nil
	})
	if err != nil {
		return nil, err
	}
	if len(events) > 0 {
		s.Wake()
	}
	return append([]api.Session{}, show...), nil
}

func (s *Service) ask(ctx context.Context, vm api.VM) (answer []agentapi.Session, heard bool) {
	if vm.State != api.StateRunning || !vm.Ready {
		return nil, false
	}
	g, err := s.Look(ctx, vm.ID)
	if err != nil {
		return nil, false
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	answer, err = g.Agent.Sessions(ctx)
	if err != nil {
		s.Log.Debug("a guest does not tell its sessions", "vm", vm.ID, "error", err)
		return nil, false
	}
	return answer, true
}

// Get is one session, by name or id.
func (s *Service) Get(ctx context.Context, ref, name string) (api.Session, error) {
	vm, err := s.VM(ctx, ref)
	if err != nil {
		return api.Session{}, err
	}
	return s.get(ctx, vm, name)
}

func (s *Service) get(ctx context.Context, vm api.VM, name string) (api.Session, error) {
	list, err := s.refresh(ctx, vm)
	if err != nil {
		return api.Session{}, err
	}
	if i := slices.IndexFunc(list, func(x api.Session) bool { return x.Name == name }); i >= 0 {
		return list[i], nil
	}
	if i := slices.IndexFunc(list, func(x api.Session) bool { return x.ID == name }); i >= 0 {
		return list[i], nil
	}
	return api.Session{}, api.Errorf(api.CodeNotFound, "VM %s has no session %q", vm.Name, name).WithHint("banger vm session list %s", vm.Name)
}

// heardOf puts one session's newest word into the records.
func (s *Service) heardOf(ctx context.Context, vm api.VM, raw agentapi.Session, events ...api.Event) (api.Session, error) {
	session, err := parse(raw)
	if err != nil {
		return session, err
	}
	err = s.Store.UpdateSessions(context.WithoutCancel(ctx), vm.ID, func(vm api.VM, have []api.Session) ([]api.Session, []api.Event, error) {
		i := slices.IndexFunc(have, func(r api.Session) bool { return r.ID == session.ID })
		if i < 0 {
			have = slices.DeleteFunc(have, func(r api.Session) bool { return r.Name == session.Name })
			session, _ = apply(vm, nil, &session, said, time.Time{})
			return append(have, session), events, nil
		}
		now, _ := apply(vm, &have[i], &session, said, time.Time{})
		_, happened := changed(&have[i], &now)
		have[i], session = now, now
		return have, append(events, happened...), nil
	})
	s.Wake()
	return session, err
}
