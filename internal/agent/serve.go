package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
	"banger/internal/agent/serve"
	"banger/internal/frame/link"
	"banger/internal/frame/wire"
)

// runAgent serves the host until the guest ends.
func runAgent(ctx context.Context, kind string, stdio Stdio) int {
	joinAgentCgroup()
	// On one CPU too, what waits for a disk must not hold up the rest until the runtime notices.
	runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	// Ignored, but not for the agent's commands: a caught signal is reset by exec.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGHUP, unix.SIGINT)
	l, rest, err := openChannel(ctx)
	if err != nil {
		console("%v", err)
		return 1
	}
	s := newSystem(kind, version())
	handler := serve.New(serve.Options{
		System:    s,
		Root:      "/",
		Cgroup:    filepath.Dir(agentCgroup),
		Protected: true,
		HoldArgv:  []string{agentProgram(), roleHold},
		Log:       slog.New(slog.NewTextHandler(stdio.Err, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Now:       time.Now,
		Rest:      rest,
	})
	go s.settle(ctx)
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	handler.Attach(server)
	if err := handler.Serve(l, server); err != nil {
		console("the channel to the host failed: %v", err)
	}
	return 1
}

// agentProgram is this program as the guest sees it.
func agentProgram() string {
	return bootDir + strings.TrimPrefix(agentapi.InitramfsAgent, agentapi.InitramfsDir)
}

// hostGone is how long the streams of a host wait for it to come again over the vsock. It does so at once where a snapshot has ended its
// connections; one that is gone for good is told from that by this alone.
const hostGone = 2 * time.Minute

// openChannel is how the host reaches this guest: its vsock, if it has one, else its port. rest is serve.Options.Rest.
func openChannel(ctx context.Context) (l net.Listener, rest func() func(), err error) {
	if slices.Contains(virtioDevices("/sys/bus/virtio/devices"), virtioVsock) {
		vsock, err := listenVsock(agentapi.VsockPort)
		if err != nil {
			return nil, nil, err
		}
		w := wire.Listen(hostGone)
		p := link.Listen(w)
		go w.Serve(vsock, p.HangUp) //nolint:errcheck // p fails with the same error
		return p, p.Rest, nil
	}
	port, err := openPort(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := link.Listen(port)
	return p, p.Rest, nil
}

// openPort finds the channel by its name: there may be other ports.
func openPort(ctx context.Context) (port io.ReadWriteCloser, err error) {
	err = retry(ctx, 10*time.Second, func() error {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			data, _ := os.ReadFile(n)
			if strings.TrimSpace(string(data)) == agentapi.PortName {
				port, err = link.OpenPort("/dev/" + filepath.Base(filepath.Dir(n)))
				return err
			}
		}
		return fmt.Errorf("no virtio port is named %s: %w", agentapi.PortName, os.ErrNotExist)
	})
	return port, err
}

// version is what the build recorded of the source.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}
