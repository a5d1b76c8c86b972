package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

type portForwardOptions struct{ address string }

func newPortForwardCmd(a *app) *cobra.Command {
	var o portForwardOptions
	cmd := &cobra.Command{
		Use:   "port-forward [flags] VM [HOST_PORT:]GUEST_PORT...",
		Short: "make TCP ports of a VM reachable from this host",
		Long: `Listen on this host and pass every connection on to a TCP port on the guest's loopback,
until Ctrl-C. It works with every kind of network, also with none. HOST_PORT 0 takes a
free port. Each address is printed once it listens.`,
		Example: "  banger port-forward web 8080:80 5432",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return api.Errorf(api.CodeInvalid, "%s needs a VM and a port", cmd.CommandPath()).WithHint("banger port-forward NAME 8080:80")
			}
			return nil
		},
		ValidArgsFunction: a.completeRunningOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, ref(args[0]), args[1:])
		},
	}
	cmd.Flags().StringVar(&o.address, "address", "127.0.0.1", "`ADDRESS` of this host to listen on")
	return cmd
}

type forward struct{ host, guest int }

func parseForward(text string) (forward, error) {
	bad := api.Errorf(api.CodeInvalid, "%q is no port", text).WithHint("GUEST_PORT or HOST_PORT:GUEST_PORT, such as 8080:80")
	host, guest, both := strings.Cut(text, ":")
	if !both {
		guest = host
	}
	g, err := strconv.Atoi(guest)
	if err != nil || g < 1 || g > 65535 {
		return forward{}, bad
	}
	if host == "" {
		host = "0"
	}
	h, err := strconv.Atoi(host)
	if err != nil || h < 0 || h > 65535 {
		return forward{}, bad
	}
	return forward{h, g}, nil
}

func (o *portForwardOptions) run(ctx context.Context, a *app, vm string, specs []string) error {
	var forwards []forward
	for _, s := range specs {
		f, err := parseForward(s)
		if err != nil {
			return err
		}
		forwards = append(forwards, f)
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	machine, err := c.VM(ctx, vm)
	if err != nil {
		return err
	}
	if !reachable(machine) {
		return api.Errorf(api.CodeConflict, "%s is %s", machine.Name, machine.State).WithHint("banger start %s", machine.Name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listeners := make([]net.Listener, 0, len(forwards))
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for _, f := range forwards {
		l, err := net.Listen("tcp", net.JoinHostPort(o.address, strconv.Itoa(f.host)))
		if err != nil {
			return api.Errorf(api.CodeInvalid, "cannot listen: %w", err).WithHint("banger port-forward %s 0:%d takes a free port", vm, f.guest)
		}
		listeners = append(listeners, l)
	}
	var wg sync.WaitGroup
	for i, l := range listeners {
		if err := o.announce(a, l.Addr(), forwards[i].guest); err != nil {
			return err
		}
		wg.Go(func() { serveForward(ctx, a, c, l, machine.ID, forwards[i].guest) })
	}
	go func() { // a VM that is gone needs no listener
		if _, err := c.Wait(ctx, machine.ID, "stopped", 0); err == nil || api.CodeOf(err) == api.CodeNotFound {
			cancel()
		}
	}()
	<-ctx.Done()
	for _, l := range listeners {
		l.Close()
	}
	wg.Wait()
	if a.soft.Err() == nil {
		return api.Errorf(api.CodeConflict, "%s has stopped", machine.Name)
	}
	return a.soft.Err()
}

func (o *portForwardOptions) announce(a *app, addr net.Addr, guest int) error {
	if a.json {
		return writeJSONLine(a.Out, struct {
			Address   string `json:"address"`
			GuestPort int    `json:"guest_port"`
		}{addr.String(), guest})
	}
	_, err := fmt.Fprintf(a.Out, "%s -> %d\n", addr, guest)
	return err
}

// serveForward takes connections until the listener is closed.
func serveForward(ctx context.Context, a *app, c *client.Client, l net.Listener, vm string, port int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			woken := a.sayWaking(c, vm)
			guest, err := c.Dial(ctx, vm, port)
			woken()
			if err != nil {
				if ctx.Err() == nil {
					a.note("port %d: %s", port, api.AsError(err).Message)
				}
				return
			}
			defer guest.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close(); guest.Close() })
			defer stop()
			joinBoth(conn, conn, guest)
		})
	}
}

// joinBoth copies both ways until both have ended, and passes the end of one direction on
// as a half-close. A direction that fails ends the other too.
func joinBoth(in io.Reader, out io.Writer, guest net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(guest, in)
		if cw, ok := guest.(closeWriter); err == nil && ok {
			err = cw.CloseWrite()
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			guest.Close()
		}
	}()
	_, err := io.Copy(out, guest)
	if cw, ok := out.(closeWriter); ok && err == nil {
		err = cw.CloseWrite()
	}
	if c, ok := in.(io.Closer); ok && err != nil {
		c.Close()
		guest.Close()
	}
	if _, isSocket := in.(net.Conn); isSocket {
		<-done // the guest may have closed its half only
	}
}

type closeWriter interface{ CloseWrite() error }
