package helper

import (
	"context"
	"fmt"
	"net"
	"os"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/verb"
)

// CanJail is what the helper said when we began, unless that was no: the programs may have been installed since.
func (h *Host) CanJail(binary, jailer string) error {
	h.mu.Lock()
	said := h.jailing
	h.mu.Unlock()
	if refusal(said, binary, jailer) == nil {
		return nil
	}
	var now verb.HelloReply
	if err := h.short(verb.Hello, nil, &now); err != nil {
		return err
	}
	h.mu.Lock()
	h.jailing = now
	h.mu.Unlock()
	return refusal(now, binary, jailer)
}

// refusal is why the helper would not run these programs. Which ones it does is root's to say.
func refusal(said verb.HelloReply, binary, jailer string) error {
	switch {
	case said.NoJail != nil:
		return said.NoJail
	case said.Firecracker != binary:
		return api.Errorf(api.CodeUnsupported, "bangerd-root runs %s, not %s", said.Firecracker, binary).WithHint("set firecracker_bin = %q in config.toml", said.Firecracker)
	case said.Jailer != jailer:
		return api.Errorf(api.CodeUnsupported, "bangerd-root runs %s, not %s", said.Jailer, jailer).WithHint("set jailer_bin = %q in config.toml", said.Jailer)
	}
	return nil
}

// PrepareJail asks for it. Where jails are is the helper's to say.
func (h *Host) PrepareJail(ctx context.Context, j host.Jail) error {
	return h.tell(ctx, verb.PrepareJail, verb.JailArgs{Jail: verb.JailOf(j)})
}

// LinkIntoJail sends the file. It stays ours, and the VMM's group may use it.
func (h *Host) LinkIntoJail(j host.Jail, name string, file *os.File, own bool) error {
	ctx, cancel := bounded()
	defer cancel()
	err := h.ask(ctx, verb.LinkIntoJail, verb.JailFileArgs{Jail: verb.JailOf(j), File: name, Own: own}, []*os.File{file}, nil, nil)
	if err != nil {
		return fmt.Errorf("cannot put %s into a jail: %w", file.Name(), err)
	}
	return nil
}

// DeviceIntoJail asks for it.
func (h *Host) DeviceIntoJail(j host.Jail, name string, major, minor uint32, readOnly bool) error {
	return h.short(verb.DeviceIntoJail, verb.JailDeviceArgs{
		Jail: verb.JailOf(j), File: name, Device: host.Device{Major: major, Minor: minor}, ReadOnly: readOnly,
	}, nil)
}

// SpawnJailed asks for it; the process is the VMM's already, or has ended.
func (h *Host) SpawnJailed(c host.Jailed) (host.Process, error) {
	args := verb.JailedArgs{
		Jail: verb.JailOf(c.Jail), Jailer: c.Jailer, Binary: c.Binary, Args: c.Args, MemoryBytes: c.MemoryBytes, OOMScoreAdj: c.OOMScoreAdj,
		Stdout: c.Stdout != nil, Stderr: c.Stderr != nil,
	}
	var files []*os.File
	for _, f := range []*os.File{c.Stdout, c.Stderr} {
		if f != nil {
			files = append(files, f)
		}
	}
	ctx, cancel := bounded()
	defer cancel()
	var p host.Process
	if err := h.ask(ctx, verb.SpawnJailed, args, files, &p, nil); err != nil {
		return host.Process{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spawned[p] = true
	return p, nil
}

// DialJailed gets the connection from the helper, which waits for the socket for a while: then it is asked again.
func (h *Host) DialJailed(ctx context.Context, j host.Jail, name string, p host.Process) (net.Conn, error) {
	out := make([]*os.File, 1)
	for {
		err := h.ask(ctx, verb.DialJailed, verb.JailProcessArgs{Jail: verb.JailOf(j), File: name, Process: p}, nil, nil, out)
		if api.CodeOf(err) == api.CodeNotReady && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer out[0].Close()
		return net.FileConn(out[0])
	}
}

// InJail asks about VMMs; whoever is none is in no jail.
func (h *Host) InJail(j host.Jail, p host.Process) bool {
	var in bool
	err := h.short(verb.InJail, verb.JailProcessArgs{Jail: verb.JailOf(j), Process: p}, &in)
	return err == nil && in
}

// OpenJailed gets the open file.
func (h *Host) OpenJailed(j host.Jail, name string) (*os.File, error) {
	ctx, cancel := bounded()
	defer cancel()
	out := make([]*os.File, 1)
	err := h.ask(ctx, verb.OpenJailed, verb.JailFileArgs{Jail: verb.JailOf(j), File: name}, nil, nil, out)
	if api.CodeOf(err) == api.CodeNotFound {
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
	}
	return out[0], err
}

// RemoveJailed asks for it.
func (h *Host) RemoveJailed(j host.Jail, name string) error {
	return h.short(verb.RemoveJailed, verb.JailFileArgs{Jail: verb.JailOf(j), File: name}, nil)
}

// RemoveJail asks for it.
func (h *Host) RemoveJail(ctx context.Context, j host.Jail) error {
	return h.tell(ctx, verb.RemoveJail, verb.JailArgs{Jail: verb.JailOf(j)})
}
