package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

// newSSHProxyCmd is what OpenSSH runs to reach a VM (ProxyCommand): it works with every
// kind of network, and without root.
func newSSHProxyCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "ssh-proxy HOST [PORT]",
		Short:  "connect standard input and output to a VM's ssh port (for ssh's ProxyCommand)",
		Hidden: true,
		Args:   cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			port := 22
			if len(args) == 2 {
				var err error
				if port, err = strconv.Atoi(args[1]); err != nil {
					return api.Errorf(api.CodeInvalid, "%q is no port", args[1])
				}
			}
			return sshProxy(cmd.Context(), a, args[0], port)
		},
	}
}

func sshProxy(ctx context.Context, a *app, host string, port int) error {
	c, err := a.daemon()
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx, ref(strings.ToLower(host)))
	if err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	pinned, err := sshIdentity(cfg, vm)
	if err != nil {
		return err
	}
	woken := a.sayWaking(c, vm.ID)
	conn, err := dialSSH(ctx, c, vm, port)
	woken()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	out := &watchedWriter{app: a, watch: keyWatch{check: func(key ssh.PublicKey) error {
		return checkPinned(pinned, key, vm.Runtime.DNSName, vm.Name, cfg.Paths.KnownHosts())
	}}}
	joinBoth(a.In, out, conn)
	return out.refused
}

// sshIdentity gives the keys pinned for a VM, after comparing them with the one that the daemon made for it.
func sshIdentity(cfg *config.Config, vm api.VM) ([]ssh.PublicKey, error) {
	file := cfg.Paths.KnownHosts()
	pinned, err := pinnedKeys(file, vm.Runtime.DNSName, vm.Name)
	if err != nil {
		return nil, err
	}
	return pinned, checkRecorded(pinned, vm, file)
}

// dialSSH connects to a port of the guest, and says what to do where nothing listens.
func dialSSH(ctx context.Context, c *client.Client, vm api.VM, port int) (net.Conn, error) {
	if !reachable(vm) {
		return nil, api.Errorf(api.CodeConflict, "%s is %s", vm.Name, vm.State).WithHint("banger start %s", vm.Name)
	}
	conn, err := c.Dial(ctx, vm.ID, port)
	if api.CodeOf(err) == api.CodeUnreachable {
		e := api.Errorf(api.CodeUnreachable, "nothing listens on port %d of %s", port, vm.Name)
		if image, err := c.Image(ctx, vm.Runtime.ImageDigest); err == nil && !image.HasSSHD {
			e = api.Errorf(api.CodeUnreachable, "nothing listens on port %d of %s: its image has no ssh server", port, vm.Name)
		}
		return nil, e.WithHint("banger shell %s", vm.Name)
	}
	return conn, err
}

// watchedWriter passes the server's bytes on until it shows a key that is not the pinned one.
type watchedWriter struct {
	app     *app
	watch   keyWatch
	refused error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	if err := w.watch.see(p); err != nil {
		w.refused = err
		return 0, fmt.Errorf("refused: %w", err)
	}
	return w.app.Out.Write(p)
}
