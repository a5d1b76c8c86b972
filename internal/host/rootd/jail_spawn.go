package rootd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/verb"
)

// rootsAlone refuses a path that anybody but root could make mean something else. In a directory with the sticky bit what is root's
// stays root's. The path holds no links.
func rootsAlone(path string) error {
	for at := path; ; at = filepath.Dir(at) {
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return &os.PathError{Op: "stat", Path: at, Err: err}
		}
		kind := st.Mode & unix.S_IFMT
		open := st.Mode&0o022 != 0 && (kind != unix.S_IFDIR || st.Mode&unix.S_ISVTX == 0)
		if kind == unix.S_IFLNK || st.Uid != 0 || open {
			return refuse("%s is not root's alone, so bangerd-root does not use %s", at, path)
		}
		if at == "/" {
			return nil
		}
	}
}

// canHoldJails: the place is root's, and on the file system of what is linked into jails.
func (s *Server) canHoldJails() error {
	at := filepath.Clean(s.o.Jails)
	var here, state unix.Stat_t
	for at != "/" && errors.Is(unix.Lstat(at, &here), unix.ENOENT) { // it is made with the first jail
		at = filepath.Dir(at)
	}
	if err := rootsAlone(at); err != nil {
		return err
	}
	if err := errors.Join(unix.Lstat(at, &here), unix.Stat(s.o.StateDir, &state)); err != nil {
		return err
	}
	if here.Dev != state.Dev {
		return api.Errorf(api.CodeUnsupported, "jails at %s are on another file system than %s, from which nothing can be linked into them", s.o.Jails, s.o.StateDir)
	}
	return nil
}

// programs are Firecracker and its jailer as root has settled them, links followed. They are looked at each time: they may be
// installed while we run.
func (s *Server) programs() (binary, jailer string, err error) {
	if binary, err = s.program(s.o.Firecracker); err != nil {
		return "", "", err
	}
	if s.o.Jailer != "" {
		jailer, err = s.program(s.o.Jailer)
		return binary, jailer, err
	}
	beside := filepath.Join(filepath.Dir(binary), strings.Replace(filepath.Base(binary), "firecracker", "jailer", 1))
	if jailer, err = s.program(beside); api.CodeOf(err) == api.CodeMissing {
		jailer, err = s.program("jailer")
	}
	return binary, jailer, err
}

func (s *Server) program(name string) (string, error) {
	path, err := s.host.LookPath(name)
	if err != nil {
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	if !filepath.IsAbs(path) {
		return "", refuse("%s is found in the working directory only", name)
	}
	if fi, err := os.Lstat(path); err != nil {
		return "", err
	} else if !fi.Mode().IsRegular() || fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return "", refuse("%s is no program to be run here", path)
	}
	return path, rootsAlone(path)
}

func (s *Server) canJail() (binary, jailer string, err error) {
	if binary, jailer, err = s.programs(); err == nil {
		err = errors.Join(s.host.CanJail(binary, jailer), s.canHoldJails())
	}
	return binary, jailer, err
}

// vmmArgs refuses all arguments but those that say where in its jail a Firecracker has its socket, its log and its metrics: among the others
// are some that turn its seccomp filters off.
func vmmArgs(args []string) error {
	if len(args)%2 != 0 {
		return refuse("an argument of Firecracker's without a value")
	}
	for n := 0; n < len(args); n += 2 {
		flag, value := args[n], args[n+1]
		ok := false
		switch flag {
		case "--api-sock", "--log-path", "--metrics-path":
			ok = fileName.MatchString(strings.TrimPrefix(value, "/"))
		case "--level":
			ok = slices.Contains([]string{"Error", "Warning", "Info", "Debug", "Off"}, value)
		}
		if !ok {
			return refuse("Firecracker is not started with %s %q", flag, value)
		}
	}
	return nil
}

func (s *Server) spawnJailed(ctx context.Context, q *question, a verb.JailedArgs) (any, error) {
	j, err := s.jail(a.Jail)
	if err != nil {
		return nil, err
	}
	if err := s.canHoldJails(); err != nil {
		return nil, err
	}
	binary, jailer, err := s.programs()
	if err != nil {
		return nil, err
	}
	want := 0
	for _, there := range []bool{a.Stdout, a.Stderr} {
		if there {
			want++
		}
	}
	switch {
	case a.Binary != binary || a.Jailer != jailer:
		return nil, refuse("bangerd-root runs %s under %s, not %q under %q", binary, jailer, a.Binary, a.Jailer)
	case j.Program != filepath.Base(binary):
		return nil, refuse("a jail of %q is not for %s", j.Program, binary)
	case a.MemoryBytes <= 0:
		return nil, refuse("a VMM has a limit of memory")
	case a.OOMScoreAdj < 0 || a.OOMScoreAdj > 1000:
		return nil, refuse("oom_score_adj %d", a.OOMScoreAdj)
	case len(q.files) != want:
		return nil, refuse("%d descriptors instead of %d", len(q.files), want)
	}
	if err := vmmArgs(a.Args); err != nil {
		return nil, err
	}
	c := host.Jailed{Jail: j, Jailer: jailer, Binary: binary, Args: a.Args, MemoryBytes: a.MemoryBytes, OOMScoreAdj: a.OOMScoreAdj}
	files := q.files
	if a.Stdout {
		c.Stdout, files = files[0], files[1:]
	}
	if a.Stderr {
		c.Stderr = files[0]
	}
	done, err := s.jails.busy.Lock(ctx, j.Name)
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := s.host.SpawnJailed(c)
	if err != nil {
		return nil, err
	}
	return p, s.awaitVMM(ctx, p)
}

// becomeTime is far more than a jailer needs to become its VMM; becomePause is between looks: nothing tells of a change of uid.
const (
	becomeTime  = 30 * time.Second
	becomePause = 2 * time.Millisecond
)

// awaitVMM waits until the jailer, which is root, has become the VMM or has ended: all other verbs know VMMs by their uid only.
func (s *Server) awaitVMM(ctx context.Context, p host.Process) error {
	ctx, cancel := context.WithTimeout(ctx, becomeTime)
	defer cancel()
	for {
		vmm, err := s.pin(p)
		if err == nil {
			vmm.close()
			return nil
		}
		if errors.Is(err, errGone) { // how it ended is asked for, as for every other
			return nil
		}
		select {
		case <-time.After(becomePause):
		case <-ctx.Done():
			return errors.Join(api.Errorf(api.CodeInternal, "the jailer has not become a VMM within %s", becomeTime), s.host.Signal(p, syscall.SIGKILL))
		}
	}
}
