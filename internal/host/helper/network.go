package helper

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"

	"banger/internal/host"
	"banger/internal/host/verb"
)

// CanBridge is what the helper said when we began.
func (h *Host) CanBridge() error {
	if h.hello.NoBridge != nil {
		return h.hello.NoBridge
	}
	return nil
}

// EnsureBridge asks for it.
func (h *Host) EnsureBridge(ctx context.Context, b host.Bridge) error {
	return h.tell(ctx, verb.EnsureBridge, b)
}

// OpenTap gets the open tap from the helper.
func (h *Host) OpenTap(ctx context.Context, t host.Tap) (*os.File, error) {
	out := make([]*os.File, 1)
	err := h.ask(ctx, verb.OpenTap, t, nil, nil, out)
	return out[0], err
}

// JoinBridge asks for it.
func (h *Host) JoinBridge(ctx context.Context, p host.Port) error {
	return h.tell(ctx, verb.JoinBridge, p)
}

// SetTapUp asks for it.
func (h *Host) SetTapUp(name string, up bool) error {
	return h.short(verb.SetTapUp, verb.LinkStateArgs{Name: name, Up: up}, nil)
}

// DeleteLink asks for it.
func (h *Host) DeleteLink(ctx context.Context, name string) error {
	return h.tell(ctx, verb.DeleteLink, verb.LinkArgs{Name: name})
}

// ApplyRules sends what is wanted; the rules are made there.
func (h *Host) ApplyRules(ctx context.Context, r host.Rules) error {
	return h.tell(ctx, verb.ApplyRules, r)
}

// Rules reads the file that comes back.
func (h *Host) Rules(ctx context.Context) (string, error) {
	out := make([]*os.File, 1)
	if err := h.ask(ctx, verb.ListRules, nil, nil, nil, out); err != nil {
		return "", err
	}
	defer out[0].Close()
	text, err := io.ReadAll(io.NewSectionReader(out[0], 0, 1<<30))
	return string(text), err
}

// SetSysctl asks only where something is to be changed.
func (h *Host) SetSysctl(name, value string) error {
	if have, err := h.Sysctl(name); err == nil && have == value {
		return nil
	}
	ctx, cancel := bounded()
	defer cancel()
	return h.tell(ctx, verb.SetSysctl, verb.SysctlArgs{Name: name, Value: value})
}

// RouteNames asks for it.
func (h *Host) RouteNames(ctx context.Context, link, server, domain string) error {
	return h.tell(ctx, verb.RouteNames, verb.NamesArgs{Link: link, Server: server, Domain: domain})
}

// ListenUDP opens the socket itself where it may.
func (h *Host) ListenUDP(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	c, err := h.Host.ListenUDP(ctx, addr)
	if !errors.Is(err, os.ErrPermission) {
		return c, err
	}
	f, err := h.listen(ctx, "udp4", addr)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FilePacketConn(f)
}

// ListenTCP is the same for TCP.
func (h *Host) ListenTCP(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	l, err := h.Host.ListenTCP(ctx, addr)
	if !errors.Is(err, os.ErrPermission) {
		return l, err
	}
	f, err := h.listen(ctx, "tcp4", addr)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

func (h *Host) listen(ctx context.Context, network string, addr netip.AddrPort) (*os.File, error) {
	out := make([]*os.File, 1)
	err := h.ask(ctx, verb.Listen, verb.ListenArgs{Network: network, Address: addr}, nil, nil, out)
	return out[0], err
}
