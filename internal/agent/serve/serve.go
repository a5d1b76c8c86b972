// Package serve answers the daemon's calls inside a guest: commands, sessions, files,
// trees, ports and figures. It is an http.Handler with the routes of api/agentapi and
// touches nothing beyond its Options.Root, the commands it starts and its System, so
// that hypervisor/fake runs the very same code on the host. agent and
// hypervisor/fake may import it.
package serve

import (
	"log/slog"
	"net/http"
	"time"
)

// Options are what a Server needs.
type Options struct {
	System System
	// Root is "/" in a guest; a directory stands for the guest's root in the fake.
	Root string
	// SessionDir keeps the sessions; empty means Root/run/banger/sessions.
	SessionDir string
	// HoldArgv starts a program that calls HoldMain(args) with all that follows this vector.
	// Empty means ["/proc/self/exe", "hold"]; in a guest argv[0] of it becomes "@banger-hold".
	HoldArgv []string
	// Cgroup is a directory of a cgroup v2 tree in which each command gets a
	// group of its own; empty: none, commands are then found by their process tree.
	Cgroup string
	// ProcRoot is where ports and stats are read: empty means /proc.
	ProcRoot string
	// NetDevice is whose traffic Stats counts; empty means eth0.
	NetDevice string
	Log       *slog.Logger
	Now       func() time.Time
}

// Server answers the daemon's calls.
type Server struct {
	o   Options
	mux *http.ServeMux
}

// New makes a Server.
func New(o Options) *Server {
	return &Server{o: o, mux: http.NewServeMux()}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }
