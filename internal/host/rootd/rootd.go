// Package rootd is bangerd-root: it does for a bangerd that runs as an ordinary user what only root may, and nothing beyond the
// closed list of package verb. It owns the socket, the check of who asks, and the gate before each verb; what is
// done then is host/local's, the same as in a bangerd that is root. Only cmd/bangerd-root imports it.
//
// Whoever asks may have been taken over: no argument is believed. There is no shell; paths are opened beneath a directory
// without following links, and used as descriptors; processes are pinned by pidfd before they are looked at.
package rootd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host/local"
	"banger/internal/host/verb"
)

// Options say whom is served with what. They come from root: the command line of the unit.
type Options struct {
	// UID is the only one that is served; GID is its group.
	UID, GID int
	// StateDir is the caller's; files below it may be given to VMMs.
	StateDir string
	// Bridge is the only one.
	Bridge string
	// Subnet is allowed on it beside private ones; may be zero.
	Subnet netip.Prefix
	// DNS is the configured dns_address; zero: the bridge's own address.
	DNS netip.AddrPort
	// VMMs have the uids from UIDBase to UIDBase+UIDCount; the last is for templates.
	UIDBase, UIDCount int
	// Jails is where jails are: a directory that root alone can change, on the file system of StateDir.
	Jails string
	// Firecracker and Jailer are names or paths; without Firecracker there are no jails to start it in, an empty Jailer is the one beside Firecracker.
	Firecracker, Jailer string
	Log                 *slog.Logger
}

// Bounds of one connection: one request, one answer.
const (
	requestTime = 10 * time.Second
	verbTime    = 2 * time.Minute
	most        = 64
)

// Server answers.
type Server struct {
	o     Options
	host  *local.Host
	verbs map[verb.Verb]handler
	turns chan struct{}
	wg    sync.WaitGroup
	jails jailing
}

// New makes a server; nothing is changed on the host yet.
func New(o Options) *Server {
	s := &Server{o: o, host: local.NewFor(o.UID), turns: make(chan struct{}, most)}
	s.verbs = s.handlers()
	return s
}

// Serve answers until the listener is closed, and returns when what was begun is done.
func (s *Server) Serve(l *net.UnixListener) error {
	defer s.wg.Wait()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		s.turns <- struct{}{}
		s.wg.Go(func() {
			defer func() { _ = c.Close(); <-s.turns }()
			s.serve(c)
		})
	}
}

func (s *Server) serve(c *net.UnixConn) {
	_ = c.SetDeadline(time.Now().Add(requestTime))
	uid, err := peer(c)
	if err == nil && uid != s.o.UID {
		err = api.Errorf(api.CodeDenied, "bangerd-root serves uid %d only, you are uid %d", s.o.UID, uid)
	}
	if err != nil {
		s.o.Log.Warn("refused", "uid", uid, "error", err)
		s.answer(c, nil, nil, err)
		return
	}
	var r verb.Request
	files, err := verb.Receive(c, &r)
	defer closeAll(files)
	if err != nil {
		s.answer(c, nil, nil, api.Errorf(api.CodeInvalid, "cannot read the request: %w", err))
		return
	}
	do, ok := s.verbs[r.Verb]
	if !ok {
		s.o.Log.Warn("refused", "verb", r.Verb)
		s.answer(c, nil, nil, api.Errorf(api.CodeInvalid, "bangerd-root knows no verb %q", r.Verb))
		return
	}
	_ = c.SetDeadline(time.Now().Add(verbTime))
	ctx, cancel := context.WithTimeout(context.Background(), verbTime)
	defer cancel()
	q := &question{args: r.Args, files: files}
	result, err := do(ctx, q)
	defer closeAll(q.out)
	if err != nil {
		s.o.Log.Info("refused or failed", "verb", r.Verb, "error", err)
	} else {
		s.o.Log.Debug("done", "verb", r.Verb)
	}
	s.answer(c, result, q.out, err)
}

// answer tells what came of it; a caller that has gone needs none.
func (s *Server) answer(c *net.UnixConn, result any, files []*os.File, err error) {
	var reply verb.Reply
	if err == nil {
		reply.Result, err = marshal(result)
	}
	if err != nil {
		reply, files = verb.Reply{Error: api.AsError(err)}, nil
		if api.CodeOf(err) == api.CodeInternal {
			// The daemon on the other side is banger's own log, not a user.
			reply.Error = api.Errorf(api.CodeInternal, "%s", err)
		}
	}
	if err := verb.Send(c, reply, files); err != nil {
		s.o.Log.Debug("cannot answer", "error", err)
	}
}

// peer is the uid on the other side, by the kernel's word (unix(7), SO_PEERCRED).
func peer(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return -1, fmt.Errorf("cannot tell who asks: %w", errors.Join(err, credErr))
	}
	return int(cred.Uid), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
