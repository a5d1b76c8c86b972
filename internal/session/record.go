package session

import (
	"cmp"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"time"

	"banger/api"
	"banger/api/agentapi"
)

// What a guest may say: it is its user's, and may be hostile.
const (
	maxSessions = 1000
	maxWords    = 4096
	maxText     = 4096
)

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// parse makes what a guest says of a session a record, without its VM. It is refused where it makes no sense.
func parse(s agentapi.Session) (api.Session, error) {
	out := api.Session{
		ID: s.ID, Name: cmp.Or(s.Name, s.ID), Labels: s.Labels, Argv: s.Argv, Env: s.Env, Cwd: s.Cwd, User: s.User, TTY: s.TTY,
		Stdin: api.StdinClosed, State: s.State, PID: s.PID, Stage: s.Stage,
		StartedAt: s.StartedAt.UTC(), StdoutBytes: s.StdoutBytes, StderrBytes: s.StderrBytes, StdoutCut: s.StdoutCut, StderrCut: s.StderrCut,
	}
	if s.Stdin {
		out.Stdin = api.StdinPipe
	}
	bad := func(format string, args ...any) (api.Session, error) {
		return api.Session{}, api.Errorf(api.CodeInternal, format, args...)
	}
	if !label.MatchString(out.ID) || !label.MatchString(out.Name) {
		return bad("the guest has a session %.100q of the id %.100q", out.Name, out.ID)
	}
	if len(s.Argv) == 0 || words(s.Argv) || words(s.Env) || len(s.Labels) > maxWords || len(s.Cwd) > maxText || len(s.User) > maxText {
		return bad("the guest's session %s has no command, or is too large", out.ID)
	}
	switch out.State {
	case api.SessionStarting, api.SessionRunning, api.SessionStopping:
		return out, nil
	case api.SessionExited:
		out.ExitCode, out.Signal = &s.ExitCode, s.Signal[:min(len(s.Signal), 20)]
		if s.Error != nil { // such as output that found no room
			out.Error = s.Error.Message[:min(len(s.Error.Message), maxText)]
		}
	case api.SessionFailed:
		out.Error = "the guest does not say why"
		if s.Error != nil {
			out.Error = s.Error.Message[:min(len(s.Error.Message), maxText)]
		}
		out.Signal = s.Signal[:min(len(s.Signal), 20)]
	default:
		return bad("the guest's session %s is %.100q", out.ID, s.State)
	}
	if s.EndedAt == nil {
		return bad("the guest's session %s has ended at no time", out.ID)
	}
	at := s.EndedAt.UTC()
	out.EndedAt = &at
	return out, nil
}

// words reports whether there is more than can be kept.
func words(list []string) bool {
	size := 0
	for _, w := range list {
		size += len(w)
	}
	return len(list) > maxWords || size > 1<<20
}

// finding is what is true of a session.
type finding int

const (
	unheard finding = iota // nobody knows more than the record
	said                   // the guest has said how it is
	lost                   // its VM has stopped, and it with it
	gone                   // the guest knows of none
)

// inspect finds out how a session is: record is nil where there is none, guest where the guest has not named it; heard is
// whether the guest was asked and has answered.
func inspect(vm api.VM, record, guest *api.Session, heard bool) finding {
	switch {
	case guest != nil:
		return said
	case heard:
		return gone
	case vm.State == api.StateStopped && record != nil && !record.Ended():
		return lost
	}
	return unheard
}

// apply makes the record what was found; keep is false where there is to be none.
func apply(vm api.VM, record, guest *api.Session, f finding, now time.Time) (out api.Session, keep bool) {
	switch f {
	case gone:
		return api.Session{}, false
	case said:
		out = *guest
	case lost:
		out = *record
		out.State, out.EndedAt, out.Error = api.SessionFailed, &now, "its VM was stopped"
	default:
		if record == nil {
			return api.Session{}, false
		}
		out = *record
	}
	out.VMID, out.VM = vm.ID, vm.Name
	return out, true
}

// changed tells whether a record is to be written, and what has happened. How much a session has written is
// not worth a write for as long as it runs.
func changed(before, after *api.Session) (write bool, events []api.Event) {
	if before == nil || after == nil {
		return before != after, nil
	}
	was, is := *before, *after
	if !is.Ended() {
		was.StdoutBytes, was.StderrBytes, was.StdoutCut, was.StderrCut = is.StdoutBytes, is.StderrBytes, is.StdoutCut, is.StderrCut
	}
	if !was.Ended() && is.Ended() {
		data := map[string]string{"session": is.Name, "signal": is.Signal, "error": is.Error}
		if is.ExitCode != nil {
			data["exit_code"] = strconv.Itoa(*is.ExitCode)
		}
		events = append(events, api.Event{Kind: "session.ended", Data: data})
	}
	return !reflect.DeepEqual(was, is), events
}

// update is all of it for a VM: its records as they are to be, as they are to be shown (with the newest
// figures), and what has happened. said is what the guest answered; heard is false where it was not asked or did not.
func update(vm api.VM, have []api.Session, answer []agentapi.Session, heard bool, now time.Time) (store, show []api.Session, events []api.Event) {
	guests, order := map[string]*api.Session{}, []string{}
	names := map[string]bool{}
	for _, raw := range answer[:min(len(answer), maxSessions)] {
		g, err := parse(raw)
		if err != nil || guests[g.ID] != nil || names[g.Name] {
			continue
		}
		guests[g.ID], names[g.Name] = &g, true
	}
	records := map[string]*api.Session{}
	for _, r := range have {
		records[r.ID] = &r
		order = append(order, r.ID)
	}
	fresh := []*api.Session{}
	for id, g := range guests {
		if records[id] == nil {
			fresh = append(fresh, g)
		}
	}
	slices.SortFunc(fresh, func(a, b *api.Session) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	for _, g := range fresh {
		order = append(order, g.ID)
	}
	for _, id := range order {
		record, guest := records[id], guests[id]
		now, keep := apply(vm, record, guest, inspect(vm, record, guest, heard), now)
		if !keep {
			continue
		}
		show = append(show, now)
		write, happened := changed(record, &now)
		events = append(events, happened...)
		if write {
			store = append(store, now)
		} else {
			store = append(store, *record)
		}
	}
	return store, show, events
}
