// Package helper is the machine of a bangerd that is not root and has a bangerd-root beside it: what takes root is asked of that,
// all else is host/local's. It owns the client's side of the socket. Only daemon, which builds it, imports it.
package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/host/verb"
)

// Host is the machine. Its parts are local's, with those methods replaced that take root.
type Host struct {
	*local.Host

	socket, state string
	hello         verb.HelloReply

	mu      sync.Mutex            // protects spawned and jailing
	spawned map[host.Process]bool // by the helper, and not yet asked how they ended
	jailing verb.HelloReply       // what it last said of jails
}

// ErrNone says that there is no helper for this daemon: none at all, or one that serves another user or another state directory.
var ErrNone = errors.New("no bangerd-root for this daemon")

// New asks the helper at socket whom it serves; stateDir is ours.
func New(ctx context.Context, socket, stateDir string) (*Host, error) {
	h := &Host{Host: local.New(), socket: socket, state: stateDir, spawned: map[host.Process]bool{}}
	if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	switch err := h.ask(ctx, verb.Hello, nil, nil, &h.hello, nil); {
	case errors.Is(err, fs.ErrPermission) || api.CodeOf(err) == api.CodeDenied:
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	case err != nil:
		return nil, fmt.Errorf("cannot use bangerd-root at %s: %w", socket, err)
	case h.hello.StateDir != stateDir:
		return nil, fmt.Errorf("%w: it serves the state directory %s", ErrNone, h.hello.StateDir)
	}
	h.jailing = h.hello
	return h, nil
}

// UIDs are those for VMMs: count of them from base on, and one more.
func (h *Host) UIDs() (base, count int) { return h.hello.UIDBase, h.hello.UIDCount }

// Bridge is the only one that the helper makes.
func (h *Host) Bridge() string { return h.hello.Bridge }

// Bounds of one question. A helper that is being restarted is waited for.
const (
	askTime     = 2 * time.Minute
	restartTime = 10 * time.Second
	again       = 50 * time.Millisecond
)

// ask sends one request and reads its answer; files go with it, and come back through out, which says how many.
func (h *Host) ask(ctx context.Context, v verb.Verb, args any, files []*os.File, result any, out []*os.File) error {
	request := verb.Request{Verb: v}
	if args != nil {
		var err error
		if request.Args, err = json.Marshal(args); err != nil {
			return err
		}
	}
	c, err := h.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(askTime))
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	var reply verb.Reply
	// A refusal may come before all was sent: what was answered counts.
	sendErr := verb.Send(c, request, files)
	got, err := verb.Receive(c, &reply)
	if err == nil && reply.Error == nil && len(got) != len(out) {
		err = fmt.Errorf("%d descriptors instead of %d", len(got), len(out))
	}
	if err != nil || reply.Error != nil {
		for _, f := range got {
			_ = f.Close()
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("bangerd-root did not answer %s: %w", v, errors.Join(sendErr, err))
	case reply.Error != nil:
		return reply.Error
	}
	copy(out, got)
	if result != nil {
		return json.Unmarshal(reply.Result, result)
	}
	return nil
}

func (h *Host) dial(ctx context.Context) (*net.UnixConn, error) {
	until := time.Now().Add(restartTime)
	for {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.socket, Net: "unix"})
		if err == nil {
			return c, nil
		}
		gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
		if !gone || time.Now().After(until) {
			return nil, api.Errorf(api.CodeUnreachable, "bangerd-root does not answer: %w", err).WithHint("sudo systemctl restart bangerd-root")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(again): // nothing tells when systemd has started it again
		}
	}
}

// tell is ask without an answer.
func (h *Host) tell(ctx context.Context, v verb.Verb, args any) error {
	return h.ask(ctx, v, args, nil, nil, nil)
}

// bounded is for the calls that have no context: they are short.
func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), askTime)
}

// below is a path as the helper takes it.
func (h *Host) below(path string) (string, error) {
	rel, err := filepath.Rel(h.state, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("%s is not below the state directory", path)
	}
	return rel, nil
}
