package session

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
)

var (
	began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ended = began.Add(time.Minute)
	now   = began.Add(time.Hour)
)

func raw(state api.SessionState, change ...func(*agentapi.Session)) agentapi.Session {
	s := agentapi.Session{SessionSpec: agentapi.SessionSpec{ID: "abcdefghijkl", Name: "build", Argv: []string{"make"}, StartedAt: began}, State: state, PID: 12}
	if state.Ended() {
		s.EndedAt = &ended
	}
	for _, fn := range change {
		fn(&s)
	}
	return s
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   agentapi.Session
		bad  bool
		want func(api.Session) bool
	}{
		"running":          {in: raw("running"), want: func(s api.Session) bool { return s.ExitCode == nil && s.EndedAt == nil && s.Stdin == api.StdinClosed }},
		"pipe":             {in: raw("running", func(s *agentapi.Session) { s.Stdin = true }), want: func(s api.Session) bool { return s.Stdin == api.StdinPipe }},
		"exited":           {in: raw("exited"), want: func(s api.Session) bool { return *s.ExitCode == 0 && s.EndedAt.Equal(ended) }},
		"no name":          {in: raw("running", func(s *agentapi.Session) { s.Name = "" }), want: func(s api.Session) bool { return s.Name == s.ID }},
		"failed":           {in: raw("failed", func(s *agentapi.Session) { s.Error = api.Errorf(api.CodeInternal, "lost") }), want: func(s api.Session) bool { return s.Error == "lost" && s.ExitCode == nil }},
		"failed silently":  {in: raw("failed"), want: func(s api.Session) bool { return s.Error != "" }},
		"an endless error": {in: raw("failed", func(s *agentapi.Session) { s.Error = api.Errorf(api.CodeInternal, "%s", strings.Repeat("x", 1<<20)) }), want: func(s api.Session) bool { return len(s.Error) == maxText }},
		"unknown state":    {in: raw("dancing"), bad: true},
		"ended at no time": {in: raw("exited", func(s *agentapi.Session) { s.EndedAt = nil }), bad: true},
		"a path for an id": {in: raw("running", func(s *agentapi.Session) { s.ID = "../../etc" }), bad: true},
		"a hostile name":   {in: raw("running", func(s *agentapi.Session) { s.Name = "\x1b[2J" }), bad: true},
		"no command":       {in: raw("running", func(s *agentapi.Session) { s.Argv = nil }), bad: true},
		"too much":         {in: raw("running", func(s *agentapi.Session) { s.Argv = []string{strings.Repeat("x", 2<<20)} }), bad: true},
	} {
		got, err := parse(tt.in)
		if (err != nil) != tt.bad {
			t.Errorf("%s: %v", name, err)
		} else if err == nil && !tt.want(got) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func record(state api.SessionState) *api.Session {
	s := &api.Session{ID: "abcdefghijkl", Name: "build", VMID: "v", VM: "web", State: state, Argv: []string{"make"}, StartedAt: began, StdoutBytes: 5}
	if s.Ended() {
		s.EndedAt = &ended
	}
	return s
}

func TestInspectAndApply(t *testing.T) {
	t.Parallel()
	runs, stopped, asleep := api.VM{ID: "v", Name: "web", State: api.StateRunning}, api.VM{ID: "v", Name: "web", State: api.StateStopped}, api.VM{ID: "v", Name: "web", State: api.StateSuspended}
	said1 := record(api.SessionExited)
	said1.VM, said1.VMID = "", ""
	for name, tt := range map[string]struct {
		vm            api.VM
		record, guest *api.Session
		heard         bool
		want          finding
		state         api.SessionState // empty: no record
		error         string
	}{
		"the guest says":                 {runs, record(api.SessionRunning), said1, true, said, api.SessionExited, ""},
		"the guest says something new":   {runs, nil, said1, true, said, api.SessionExited, ""},
		"the guest knows it no more":     {runs, record(api.SessionExited), nil, true, gone, "", ""},
		"the guest was not heard":        {runs, record(api.SessionRunning), nil, false, unheard, api.SessionRunning, ""},
		"the VM is asleep":               {asleep, record(api.SessionRunning), nil, false, unheard, api.SessionRunning, ""},
		"the VM was stopped":             {stopped, record(api.SessionRunning), nil, false, lost, api.SessionFailed, "its VM was stopped"},
		"the VM was stopped after it":    {stopped, record(api.SessionExited), nil, false, unheard, api.SessionExited, ""},
		"the guest says it runs again":   {runs, record(api.SessionFailed), guestOf(api.SessionRunning), true, said, api.SessionRunning, ""},
		"stopped, but said just before":  {stopped, record(api.SessionRunning), said1, true, said, api.SessionExited, ""},
		"nothing is known of it at all":  {runs, nil, nil, false, unheard, "", ""},
		"nothing is known, nothing said": {stopped, nil, nil, false, unheard, "", ""},
	} {
		f := inspect(tt.vm, tt.record, tt.guest, tt.heard)
		if f != tt.want {
			t.Errorf("%s: found %d, want %d", name, f, tt.want)
		}
		got, keep := apply(tt.vm, tt.record, tt.guest, f, now)
		if keep != (tt.state != "") || got.State != tt.state || got.Error != tt.error {
			t.Errorf("%s: %v %+v", name, keep, got)
		}
		if keep && (got.VM != "web" || got.VMID != "v" || got.Ended() != (got.EndedAt != nil)) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func guestOf(state api.SessionState) *api.Session {
	s := record(state)
	s.VM, s.VMID = "", ""
	return s
}

func TestChanged(t *testing.T) {
	t.Parallel()
	more := record(api.SessionRunning)
	more.StdoutBytes = 500
	code := 3
	exited := record(api.SessionExited)
	exited.ExitCode = &code
	for name, tt := range map[string]struct {
		before, after *api.Session
		write         bool
		event         string
	}{
		"the same":            {record(api.SessionRunning), record(api.SessionRunning), false, ""},
		"more output":         {record(api.SessionRunning), more, false, ""},
		"new":                 {nil, record(api.SessionRunning), true, ""},
		"gone":                {record(api.SessionRunning), nil, true, ""},
		"stopping":            {record(api.SessionRunning), record(api.SessionStopping), true, ""},
		"ended":               {record(api.SessionRunning), exited, true, "session.ended"},
		"lost, then it ended": {record(api.SessionFailed), exited, true, ""},
		"output after it all": {record(api.SessionExited), exited, true, ""},
	} {
		write, events := changed(tt.before, tt.after)
		kind := ""
		if len(events) > 0 {
			kind = events[0].Kind
		}
		if write != tt.write || kind != tt.event || len(events) > 1 {
			t.Errorf("%s: %v %v", name, write, events)
		}
		if kind != "" && (events[0].Data["exit_code"] != "3" || events[0].Data["session"] != "build") {
			t.Errorf("%s: %v", name, events)
		}
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	vm := api.VM{ID: "v", Name: "web", State: api.StateRunning}
	named := func(id, name string, state api.SessionState, at time.Time) agentapi.Session {
		return raw(state, func(s *agentapi.Session) { s.ID, s.Name, s.StartedAt, s.StdoutBytes = id, name, at, 99 })
	}
	have := []api.Session{*record(api.SessionRunning)}
	store, show, events := update(vm, have, []agentapi.Session{
		named("zzz", "late", "running", began.Add(2)), named("aaa", "later", "running", began.Add(3)), named("ccc", "early", "exited", began.Add(1)),
		named("zzz", "twice", "running", began), named("bbb", "late", "running", began), named("ddd", "bad", "dancing", began),
		named("abcdefghijkl", "build", "running", began),
	}, true, now)
	var names []string
	for _, s := range show {
		names = append(names, s.Name)
	}
	if !reflect.DeepEqual(names, []string{"build", "early", "late", "later"}) {
		t.Errorf("%v", names)
	}
	if len(events) != 0 {
		t.Errorf("%v", events)
	}
	if show[0].StdoutBytes != 99 || store[0].StdoutBytes == 99 && store[0].PID == 0 {
		t.Errorf("shown %+v, stored %+v", show[0], store[0])
	}
	// Nobody to ask: all stays as it was.
	store, show, events = update(api.VM{ID: "v", Name: "web", State: api.StateSuspended}, have, nil, false, now)
	if !reflect.DeepEqual(store, have) || !reflect.DeepEqual(show, have) || events != nil {
		t.Errorf("%+v %+v %v", store, show, events)
	}
	// A guest that tells more than anybody can want.
	many := make([]agentapi.Session, 2*maxSessions)
	for i := range many {
		many[i] = named("s"+strings.Repeat("a", i%50)+strings.Repeat("b", i/50), "", "running", began)
	}
	if store, _, _ := update(vm, nil, many, true, now); len(store) > maxSessions {
		t.Errorf("%d are kept", len(store))
	}
}
