// Package client speaks to bangerd over its unix socket, and starts bangerd where it
// is not running. It owns the connection and its errors; what the words on the wire
// mean is in api. cli imports it, and so may any Go program that wants machines.
//
// Every error it returns is, or wraps, an *api.Error.
package client

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options say where the daemon is and what it is started with.
type Options struct {
	// Socket is the daemon's unix socket; at most 107 bytes.
	Socket string
	// StateDir, RuntimeDir, ConfigDir and SSHDir are passed on to a daemon that is started;
	// an empty one is left to the daemon's own idea.
	StateDir, RuntimeDir, ConfigDir, SSHDir string
	// DaemonLog gets what a started daemon writes to stderr before its own log is open.
	DaemonLog string
	// Program is the daemon to start; empty: bangerd beside this executable, then in PATH.
	Program string
	// NoStart leaves a daemon that does not run alone: the call fails with code unreachable.
	NoStart bool
	// Unit is the systemd unit that runs the daemon, which is waited for while it restarts and never started by us; of the user's own
	// systemd with UserUnit. May be empty.
	Unit     string
	UserUnit bool
	// Notice is told, at most once, that the daemon is of another version. May be nil.
	Notice func(text string)
	// StartTimeout bounds the start of the daemon, which is a hang and never a busy host; 0 means a minute.
	StartTimeout time.Duration
}

// Client is one user's way to one daemon. Safe for concurrent use.
type Client struct {
	opts   Options
	http   *http.Client
	notice sync.Once
	// starting lets one goroutine at a time start the daemon.
	starting chan struct{}
}

// New makes a client. It connects at the first call.
func New(o Options) *Client {
	if o.StartTimeout == 0 {
		o.StartTimeout = time.Minute
	}
	c := &Client{opts: o, starting: make(chan struct{}, 1)}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
		DisableCompression: true,
		// A handful of calls may run side by side; none needs a connection kept for long.
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
	}}
	return c
}

// Close drops idle connections. Streams that are open stay open.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
