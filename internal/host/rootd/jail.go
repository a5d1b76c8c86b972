package rootd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/verb"
	"banger/internal/keylock"
)

// jailing keeps a jail from being changed by two at a time, and mapped devices from going while a node of them is made.
type jailing struct {
	busy keylock.Locks // by name
	// nodes is held while a node is made, and while a device is removed.
	nodes sync.Mutex
}

// The names of jails and of what lies in them.
var (
	jailName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// jail is where a jail is that the caller names. What its names may be is looked at again by host/local.
func (s *Server) jail(a verb.Jail) (host.Jail, error) {
	j := host.Jail{Base: s.o.Jails, Program: a.Program, Name: a.Name, UID: a.UID, GID: a.GID}
	switch {
	case !s.vmm(a.UID) || a.GID != a.UID:
		return j, refuse("uid %d and gid %d are no VMM's", a.UID, a.GID)
	case !jailName.MatchString(a.Name) || !fileName.MatchString(a.Program):
		return j, refuse("%q is no name for a jail of %q", a.Name, a.Program)
	}
	return j, nil
}

// fileIn refuses what is no name for a file in a jail, or is one of those that the jailer itself makes.
func fileIn(a verb.Jail, name string) error {
	if !fileName.MatchString(name) || name == a.Program || slices.Contains([]string{"dev", "run", "sys", "proc", "old_root"}, name) {
		return refuse("%q is no name for a file in a jail", name)
	}
	return nil
}

// held refuses a jail that a VMM is in.
func (s *Server) held(j host.Jail) error {
	pids, err := s.host.PIDs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if uid, err := s.host.Owner(pid); err != nil || !s.vmm(uid) {
			continue
		}
		if p, ok := s.host.Identify(pid); ok && s.host.InJail(j, p) {
			return api.Errorf(api.CodeBusy, "process %d is in the jail %s", pid, j.Name)
		}
	}
	return nil
}

// alone locks a jail for verbs that need one without a VMM.
func (s *Server) alone(ctx context.Context, a verb.Jail) (j host.Jail, done func(), err error) {
	if j, err = s.jail(a); err != nil {
		return j, nil, err
	}
	if done, err = s.jails.busy.Lock(ctx, j.Name); err != nil {
		return j, nil, err
	}
	if err = s.held(j); err != nil {
		done()
	}
	return j, done, err
}

func (s *Server) prepareJail(ctx context.Context, _ *question, a verb.JailArgs) (any, error) {
	if err := s.canHoldJails(); err != nil {
		return nil, err
	}
	j, done, err := s.alone(ctx, a.Jail)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.MkdirAll(j.Base, 0o700); err != nil {
		return nil, err
	}
	if err := rootsAlone(j.Base); err != nil { // it may have been made by somebody else meanwhile
		return nil, err
	}
	return nil, s.host.PrepareJail(ctx, j)
}

func (s *Server) removeJail(ctx context.Context, _ *question, a verb.JailArgs) (any, error) {
	j, done, err := s.alone(ctx, a.Jail)
	if err != nil {
		return nil, err
	}
	defer done()
	return nil, s.host.RemoveJail(ctx, j)
}

// linkIntoJail takes the file that was handed over, and may give it to the VMM.
func (s *Server) linkIntoJail(_ context.Context, q *question, a verb.JailFileArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	if err := fileIn(a.Jail, a.File); err != nil {
		return nil, err
	}
	f, st, err := handed(q, a.Own)
	if err != nil {
		return nil, err
	}
	switch {
	case int(st.Uid) != s.o.UID && (st.Uid != 0 || a.Own):
		return nil, refuse("it belongs to uid %d", st.Uid)
	case st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		return nil, refuse("it is a set-id program")
	case a.Own:
		if err := s.giveFile(int(f.Fd()), a.File, j.UID); err != nil {
			return nil, err
		}
	case st.Mode&unix.S_IROTH == 0:
		return nil, refuse("not everybody may read it")
	}
	// It stays the caller's: the VMM is let in by its group.
	return nil, s.host.LinkIntoJail(j, a.File, f, false)
}

func (s *Server) deviceIntoJail(_ context.Context, _ *question, a verb.JailDeviceArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	if err := fileIn(a.Jail, a.File); err != nil {
		return nil, err
	}
	s.jails.nodes.Lock()
	defer s.jails.nodes.Unlock()
	if !s.host.IsMapped(a.Device) {
		return nil, refuse("device %s is no mapped device of banger's", a.Device)
	}
	return nil, s.host.DeviceIntoJail(j, a.File, a.Device.Major, a.Device.Minor, a.ReadOnly)
}

// removeMapped keeps a device that a jail has a node of: its number would pass to another, and the node with it.
func (s *Server) removeMapped(_ context.Context, _ *question, a verb.MapArgs) (any, error) {
	s.jails.nodes.Lock()
	defer s.jails.nodes.Unlock()
	m, err := s.host.Mapped(a.Name)
	if err == nil {
		err = s.host.NodesInJails(s.o.Jails, func(d host.Device) bool {
			if d == m.Device {
				err = api.Errorf(api.CodeBusy, "device %s is in a jail", a.Name)
			}
			return true
		})
	} else if api.CodeOf(err) == api.CodeNotFound {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return nil, s.host.RemoveMapped(a.Name)
}

// revokeNodes is done before anything is served: while nobody held them, devices may have gone, and their numbers passed on.
func (s *Server) revokeNodes() error {
	s.jails.nodes.Lock()
	defer s.jails.nodes.Unlock()
	return s.host.NodesInJails(s.o.Jails, s.host.IsMapped)
}

// dialTime bounds how long a question waits for a socket: who wants to wait longer asks again.
const dialTime = time.Second

func (s *Server) dialJailed(ctx context.Context, q *question, a verb.JailProcessArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	if !fileName.MatchString(a.File) {
		return nil, refuse("%q is no name for a socket in a jail", a.File)
	}
	p, err := s.pin(a.Process)
	if err != nil {
		return nil, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := s.host.DialJailed(ctx, j, a.File, a.Process)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, api.Errorf(api.CodeNotReady, "nobody listens at %s in the jail %s", a.File, j.Name)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, err
	}
	q.out = []*os.File{f}
	return nil, nil
}

func (s *Server) inJail(_ context.Context, _ *question, a verb.JailProcessArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	p, err := s.pin(a.Process)
	if errors.Is(err, errGone) {
		return false, nil
	}
	if err != nil {
		return nil, err
	}
	defer p.close()
	return s.host.InJail(j, a.Process), nil
}

func (s *Server) openJailed(_ context.Context, q *question, a verb.JailFileArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	if !fileName.MatchString(a.File) {
		return nil, refuse("%q is no name for a file in a jail", a.File)
	}
	f, err := s.host.OpenJailed(j, a.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeNotFound, "there is no %s in the jail %s", a.File, j.Name)
	}
	if err != nil {
		return nil, refuse("%w", err)
	}
	q.out = []*os.File{f}
	return nil, nil
}

func (s *Server) removeJailed(_ context.Context, _ *question, a verb.JailFileArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	if err := fileIn(a.Jail, a.File); err != nil {
		return nil, err
	}
	if err := s.host.RemoveJailed(j, a.File); err != nil {
		return nil, fmt.Errorf("cannot remove %s of the jail %s: %w", a.File, j.Name, err)
	}
	return nil, nil
}
