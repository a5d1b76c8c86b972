package vm

import (
	"context"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"

	"banger/api"
)

// StatFile describes a path in the guest.
func (g *Guests) StatFile(ctx context.Context, ref, path string) (api.FileStat, error) {
	l, end, err := g.reachFor(ctx, ref, path)
	if err != nil {
		return api.FileStat{}, err
	}
	defer end()
	return l.agent.Stat(ctx, path)
}

// GetFile reads one file of the guest.
func (g *Guests) GetFile(ctx context.Context, ref, path string) (io.ReadCloser, fs.FileMode, error) {
	l, end, err := g.reachFor(ctx, ref, path)
	if err != nil {
		return nil, 0, err
	}
	file, mode, _, err := l.agent.GetFile(ctx, path)
	if err != nil {
		end()
		return nil, 0, err
	}
	return endOnClose{file, end}, mode, nil
}

// PutFile writes one file of the guest: the whole new one or the old one, never half.
func (g *Guests) PutFile(ctx context.Context, ref, path, user string, mode fs.FileMode, r io.Reader) error {
	l, end, err := g.reachFor(ctx, ref, path)
	if err != nil {
		return err
	}
	defer end()
	return l.why(l.agent.PutFile(ctx, path, user, &mode, r))
}

// GetTree reads a file or directory of the guest as a tar stream.
func (g *Guests) GetTree(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	l, end, err := g.reachFor(ctx, ref, path)
	if err != nil {
		return nil, err
	}
	tree, err := l.agent.GetTree(ctx, path)
	if err != nil {
		end()
		return nil, err
	}
	return endOnClose{tree, end}, nil
}

// PutTree unpacks a tar stream below a directory of the guest.
func (g *Guests) PutTree(ctx context.Context, ref, path, user string, r io.Reader) error {
	l, end, err := g.reachFor(ctx, ref, path)
	if err != nil {
		return err
	}
	defer end()
	return l.why(l.agent.PutTree(ctx, path, user, r))
}

func (g *Guests) reachFor(ctx context.Context, ref, path string) (*liveVM, func(), error) {
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "\x00") {
		return nil, nil, api.Errorf(api.CodeInvalid, "path %q in the guest is not absolute", path)
	}
	_, l, end, err := g.reach(ctx, ref)
	return l, end, err
}

// Dial connects to a TCP port in the guest, by its loopback.
func (g *Guests) Dial(ctx context.Context, ref string, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, api.Errorf(api.CodeInvalid, "%d is no port", port)
	}
	_, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return nil, err
	}
	conn, err := l.agent.Dial(ctx, port)
	if err != nil {
		end()
		return nil, err
	}
	return dialled{conn, end}, nil
}

// Ports lists what listens in the guest, and how to reach each from this host.
func (g *Guests) Ports(ctx context.Context, ref string) ([]api.Port, error) {
	vm, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer end()
	ports, err := l.agent.Ports(ctx)
	if err != nil {
		return nil, err
	}
	for i := range ports {
		ports[i].Reach = reach(vm, ports[i])
	}
	return ports, nil
}

func reach(vm api.VM, p api.Port) string {
	loopback := strings.HasPrefix(p.Address, "127.") || p.Address == "::1"
	if vm.Spec.Net == api.NetBridge && !loopback {
		return net.JoinHostPort(vm.Runtime.GuestIP, strconv.Itoa(p.Port))
	}
	if p.Protocol != "tcp" {
		return ""
	}
	return "banger port-forward " + vm.Name + " " + strconv.Itoa(p.Port)
}

func itoa(n int) string { return strconv.Itoa(n) }
