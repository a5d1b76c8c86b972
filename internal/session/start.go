package session

import (
	"context"
	"slices"

	"banger/api"
	"banger/api/agentapi"
)

// nameTries bounds the search for a name of its own, against others who search too.
const nameTries = 20

// Start starts a command that outlives everybody but its VM. One that cannot be started is no error here but a failed session,
// which says at which stage and why.
func (s *Service) Start(ctx context.Context, ref string, create api.SessionCreate) (api.Session, error) {
	if err := create.Validate(); err != nil {
		return api.Session{}, err
	}
	g, err := s.Reach(ctx, ref)
	if err != nil {
		return api.Session{}, err
	}
	defer g.Close()
	have, err := s.Store.Sessions(ctx, g.VM.ID)
	if err != nil {
		return api.Session{}, err
	}
	taken := map[string]bool{}
	for _, session := range have {
		taken[session.Name] = session.Stage == ""
	}
	start := agentapi.SessionStart{
		ID: s.NewID(), Name: create.Name, Labels: create.Labels, Exec: create.Exec(), Require: create.Require, LogLimitBytes: s.LogLimit,
	}
	for range nameTries {
		if create.Name == "" {
			start.Name = api.SessionName(create.Argv, func(name string) bool { return taken[name] })
		}
		var raw agentapi.Session
		// The guest has the last word on names: it may have sessions that nobody has asked for yet.
		raw, err = g.Agent.StartSession(ctx, start)
		switch {
		case err == nil:
			return s.heardOf(ctx, g.VM, raw, api.Event{Kind: "session.started", Data: map[string]string{"session": start.Name}})
		case api.CodeOf(err) != api.CodeExists:
			return api.Session{}, g.Why(err)
		case create.Name != "":
			return api.Session{}, api.Errorf(api.CodeExists, "VM %s has a session %q already", g.VM.Name, create.Name).
				WithHint("banger vm session delete %s %s", g.VM.Name, create.Name)
		}
		taken[start.Name] = true
	}
	return api.Session{}, err
}

// at is a session in a guest that can be called.
type at struct {
	Guest
	session api.Session
}

// reach finds a session for somebody who wants something of it.
func (s *Service) reach(ctx context.Context, ref, name string) (at, error) {
	g, err := s.Reach(ctx, ref)
	if err != nil {
		return at{}, err
	}
	have, err := s.Store.Sessions(ctx, g.VM.ID)
	if err == nil {
		i := slices.IndexFunc(have, func(x api.Session) bool { return x.Name == name })
		if i < 0 {
			i = slices.IndexFunc(have, func(x api.Session) bool { return x.ID == name })
		}
		if i >= 0 {
			return at{g, have[i]}, nil
		}
		var session api.Session
		if session, err = s.get(ctx, g.VM, name); err == nil {
			return at{g, session}, nil
		}
	}
	g.Close()
	return at{}, err
}

// refused words what a guest has refused. What is true of the session is asked for anew.
func (s *Service) refused(ctx context.Context, a at, do string, err error) error {
	code := api.CodeOf(err)
	if code != api.CodeConflict && code != api.CodeBusy && code != api.CodeNotFound {
		return a.Why(err)
	}
	now, found := s.get(ctx, a.VM, a.session.ID)
	vm, name := a.VM.Name, a.session.Name
	switch {
	case api.CodeOf(found) == api.CodeNotFound:
		return api.Errorf(api.CodeNotFound, "VM %s has no session %q", vm, name).WithHint("banger vm session list %s", vm)
	case found != nil:
		return found
	case do == doDelete && code == api.CodeConflict:
		return api.Errorf(api.CodeConflict, "session %s of VM %s is %s", name, vm, now.State).WithHint("banger vm session kill %s %s", vm, name)
	case now.State == api.SessionExited && now.ExitCode != nil:
		return api.Errorf(api.CodeConflict, "session %s of VM %s has ended with exit code %d", name, vm, *now.ExitCode).WithHint("banger vm session logs %s %s", vm, name)
	case now.Ended():
		return api.Errorf(api.CodeConflict, "session %s of VM %s has failed: %s", name, vm, now.Error).WithHint("banger vm session logs %s %s", vm, name)
	case do == doAttach:
		return api.Errorf(api.CodeBusy, "session %s of VM %s is attached elsewhere", name, vm).WithHint("banger vm session logs -f %s %s", vm, name)
	case do == doSend && now.Stdin == api.StdinClosed:
		return api.Errorf(api.CodeConflict, "the standard input of session %s of VM %s is closed", name, vm).WithHint("banger vm session start --stdin pipe")
	case do == doSend:
		return api.Errorf(api.CodeConflict, "the standard input of session %s of VM %s has been ended by send --eof", name, vm).WithHint("banger vm session show %s %s", vm, name)
	}
	return err
}

// What somebody wanted that was refused.
const (
	doAttach = "attach"
	doSend   = "send"
	doSignal = "signal"
	doDelete = "delete"
)
