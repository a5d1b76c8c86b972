// Package serve answers the daemon's calls inside a guest: commands, sessions, files,
// trees, ports and figures. It is an http.Handler with the routes of api/agentapi and
// touches nothing beyond its Options.Root, the commands it starts and its System, so
// that hypervisor/fake runs the very same code on the host. agent and
// hypervisor/fake may import it.
package serve

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"banger/api"
)

// Options are what a Server needs.
type Options struct {
	System System
	// Root is "/" in a guest. Another directory (the fake) stands for the guest's root: files and
	// homes are looked up in it, users are not switched, nothing is synced.
	Root string
	// SessionDir keeps the sessions; empty means Root with api.SessionsDir.
	SessionDir string
	// SessionRun, set together with it, has the sockets of those that are held, and is empty after each boot of the guest.
	SessionRun string
	// HoldArgv starts a program that calls HoldMain with all arguments that follow these.
	// Empty means /proc/self/exe hold. Whatever it is, argv[0] becomes "@banger-hold".
	HoldArgv []string
	// Cgroup is a directory of a cgroup v2 tree in which each command gets a
	// group of its own; empty: none, commands are then found by session and descent.
	Cgroup string
	// Protected keeps this process, and the holders of sessions, from the kernel's OOM killer: it is for a guest's own agent.
	Protected bool
	// NetDevice is whose traffic Stats counts; empty means eth0.
	NetDevice string
	Log       *slog.Logger
	Now       func() time.Time
	// Rest returns what makes the channel to the present host ready for another host: called once a guest that is to be frozen
	// has answered for the last time. May be nil.
	Rest func() func()
}

// Server answers the daemon's calls. Safe for concurrent use.
type Server struct {
	o     Options
	place place
	log   *slog.Logger
	mux   *http.ServeMux
	// answered is what waits for answers to leave.
	answered answered
	// starting is held while a session gets its name.
	starting sync.Mutex
	// settling is held while it is written down that nobody holds a session any more.
	settling sync.Mutex
}

// New makes a Server.
func New(o Options) *Server {
	if o.Root == "" {
		o.Root = "/"
	}
	if len(o.HoldArgv) == 0 {
		o.HoldArgv = []string{"/proc/self/exe", "hold"}
	}
	if o.NetDevice == "" {
		o.NetDevice = "eth0"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{o: o, place: place{Root: o.Root, Cgroup: o.Cgroup, groups: &groups{}, Protected: o.Protected}, log: o.Log, mux: http.NewServeMux()}
	if o.Protected {
		s.place.oom = protect()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.o.SessionDir == "" {
		s.o.SessionDir, s.o.SessionRun = s.place.path(api.SessionsDir), s.place.path("/run/banger/sessions")
	}
	for pattern, h := range s.routes() {
		s.mux.Handle(pattern, s.answer(h))
	}
	return s
}

func (s *Server) routes() map[string]handler {
	return map[string]handler{
		"GET /health":       s.health,
		"POST /release":     s.release,
		"POST /quiesce":     s.quiesce,
		"POST /personalise": s.personalise,
		"POST /shutdown":    s.shutdown,
		"POST /clock":       s.clock,
		"POST /grow":        s.grow,
		"POST /sync":        s.sync,

		"POST /exec":                 s.exec,
		"POST /sessions":             s.startSession,
		"GET /sessions":              s.sessions,
		"GET /sessions/{id}":         s.session,
		"DELETE /sessions/{id}":      s.deleteSession,
		"GET /sessions/{id}/log":     s.sessionLog,
		"POST /sessions/{id}/signal": s.signalSession,
		"POST /sessions/{id}/stop":   s.stopSession,
		"POST /sessions/{id}/attach": s.attachSession,
		"POST /sessions/{id}/send":   s.sendSession,

		"GET /files": s.getFile,
		"PUT /files": s.putFile,
		"GET /tree":  s.getTree,
		"PUT /tree":  s.putTree,
		"GET /stat":  s.stat,
		"GET /image": s.getImage,

		"GET /dial":  s.dial,
		"GET /ports": s.ports,
		"GET /stats": s.stats,

		"GET /activity": s.activity,
	}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// handler answers a call, or returns why not. Once it has begun its answer it returns nil.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) answer(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			e := api.AsError(err)
			if e.Code == api.CodeInternal {
				s.log.Warn("a call failed", "path", r.URL.Path, "err", err)
			}
			writeJSON(w, e.Code.Status(), api.ErrorBody{Error: *e})
		}
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func ok(w http.ResponseWriter, v any) error {
	writeJSON(w, http.StatusOK, v)
	return nil
}

// maxBody bounds a JSON body.
const maxBody = 4 << 20

func decode(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	if err := d.Decode(v); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot read the request: %w", err)
	}
	return nil
}
