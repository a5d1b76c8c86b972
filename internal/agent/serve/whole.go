package serve

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// The calls that are about the whole guest. What changes it is finished even if the caller goes away: half a
// personality is worse than none.

// longestWait bounds wait_ms.
const longestWait = 10 * time.Minute

func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := q.Get(agentapi.HealthWaitParam)
	if v == "" {
		return s.healthy(w, s.o.System.Health())
	}
	ms, err := strconv.ParseInt(v, 10, 64)
	if err != nil || ms < 0 {
		return api.Errorf(api.CodeInvalid, "bad %s %q: not a number of milliseconds", agentapi.HealthWaitParam, v)
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(ms)*time.Millisecond, longestWait))
	defer cancel()
	for {
		changed := s.o.System.Changed() // before it is looked at
		h := s.o.System.Health()
		if h.Ready || h.Waiting != q.Get(agentapi.HealthWaitingParam) || ctx.Err() != nil {
			return s.healthy(w, h)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (s *Server) healthy(w http.ResponseWriter, h agentapi.Health) error {
	h.Now = s.o.Now()
	return ok(w, h)
}

func (s *Server) release(w http.ResponseWriter, r *http.Request) error {
	var rl agentapi.Release
	if err := decode(r, &rl); err != nil {
		return err
	}
	if err := s.o.System.Release(context.WithoutCancel(r.Context()), rl); err != nil {
		return err
	}
	return s.healthy(w, s.o.System.Health())
}

func (s *Server) quiesce(w http.ResponseWriter, r *http.Request) error {
	rest := func() {}
	if s.o.Rest != nil {
		rest = s.o.Rest()
	}
	s.warmUp()
	rehearse()
	s.place.groups.prepare(s.place.Cgroup)
	// The last of all: it is also the time in which the kernel cleans up after the commands.
	if err := s.o.System.Quiesce(context.WithoutCancel(r.Context())); err != nil {
		return err
	}
	runtime.GC() // so that no clone has to
	s.onceAnswered(r, rest)
	return s.healthy(w, s.o.System.Health())
}

// warmUp runs a program by the very way that the host's commands go, so that the first of them in a clone
// finds its pages in memory. It may be that the guest has no such program.
func (s *Server) warmUp() {
	for range 2 { // the first makes what the second finds
		c, err := s.place.start(api.ExecSpec{Argv: []string{"true"}, Stdin: true})
		if err != nil {
			return
		}
		c.closeStdin()
		discard := func([]byte) error { return nil }
		go pump(c.stderr, c.exited, discard)
		<-pump(c.stdout, c.exited, discard)
		c.await(warmUpTime, nil)
		c.group.tidyUp()
	}
}

// rehearse writes and reads what a clone begins with: the first time, package json learns how.
func rehearse() {
	now := time.Now()
	for _, v := range []any{
		&agentapi.Personalise{Network: &agentapi.Network{}, WorkDisk: &agentapi.WorkDisk{}, Time: now, SSHHostKey: []byte{1}, AuthorizedKeys: []string{""}},
		&agentapi.Health{Now: now}, &agentapi.Clock{},
		&api.Control{Type: api.ControlStart, Exec: &api.ExecSpec{Argv: []string{""}}},
	} {
		if text, err := json.Marshal(v); err == nil {
			_ = json.Unmarshal(text, v) // there is nothing that could fail
		}
	}
}

// warmUpTime is what true may take on a machine that has a lot to do.
const warmUpTime = 10 * time.Second

func (s *Server) personalise(w http.ResponseWriter, r *http.Request) error {
	var p agentapi.Personalise
	if err := decode(r, &p); err != nil {
		return err
	}
	h, err := s.o.System.Personalise(context.WithoutCancel(r.Context()), p)
	if err != nil {
		return err
	}
	return s.healthy(w, h)
}

func (s *Server) shutdown(w http.ResponseWriter, r *http.Request) error {
	var sd agentapi.Shutdown
	if err := decode(r, &sd); err != nil {
		return err
	}
	_ = os.WriteFile(s.endingMark(), nil, 0o600) // where there was never a session there is no place for it, and no need
	if err := s.o.System.Shutdown(context.WithoutCancel(r.Context()), sd); err != nil {
		_ = os.Remove(s.endingMark())
		return err
	}
	return ok(w, struct{}{})
}

func (s *Server) clock(w http.ResponseWriter, r *http.Request) error {
	var c agentapi.Clock
	if err := decode(r, &c); err != nil {
		return err
	}
	if err := s.o.System.SetClock(c); err != nil {
		return err
	}
	return s.healthy(w, s.o.System.Health())
}

func (s *Server) grow(w http.ResponseWriter, r *http.Request) error {
	if err := s.o.System.Grow(context.WithoutCancel(r.Context())); err != nil {
		return err
	}
	return s.healthy(w, s.o.System.Health())
}

func (s *Server) sync(w http.ResponseWriter, _ *http.Request) error {
	if s.place.own() {
		unix.Sync()
	}
	return ok(w, struct{}{})
}
