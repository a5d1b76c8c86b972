package rootd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host/verb"
)

// Main runs bangerd-root until SIGTERM or the end of ctx, and returns the exit code of the process.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	syscall.Umask(0o077)
	o, socket, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	o.Log = slog.New(slog.NewTextHandler(stderr, nil))
	if err := run(ctx, o, socket); err != nil {
		fmt.Fprintf(stderr, "bangerd-root: %s\n", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (Options, string, error) {
	var o Options
	var socket, subnet, dns string
	set := flag.NewFlagSet("bangerd-root", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&socket, "socket", "", "where to listen; its directory is root's")
	set.IntVar(&o.UID, "uid", -1, "the one user that is served")
	set.IntVar(&o.GID, "gid", -1, "that user's group")
	set.StringVar(&o.StateDir, "state-dir", "", "that user's state directory")
	set.StringVar(&o.Bridge, "bridge", "banger0", "the one bridge")
	set.StringVar(&subnet, "subnet", "", "allowed on the bridge beside private subnets")
	set.StringVar(&dns, "dns", "", "where names are answered, if not on the bridge: ADDRESS:PORT")
	set.StringVar(&o.Jails, "jails", "/var/lib/banger-root/jails", "where jails are: root's own, on the file system of the state directory")
	set.StringVar(&o.Firecracker, "firecracker", "firecracker", "the Firecracker to run: a name looked up in PATH, or a path")
	set.StringVar(&o.Jailer, "jailer", "", "Firecracker's jailer; without it the one beside Firecracker")
	set.IntVar(&o.UIDBase, "uid-base", 1_900_000_000, "first uid for VMMs")
	set.IntVar(&o.UIDCount, "uid-count", 4096, "how many there are, but for one more")
	if err := set.Parse(args); err != nil {
		return o, "", err
	}
	err := func() (err error) {
		if subnet != "" {
			if o.Subnet, err = netip.ParsePrefix(subnet); err != nil {
				return err
			}
		}
		if dns != "" {
			if o.DNS, err = netip.ParseAddrPort(dns); err != nil {
				return err
			}
		}
		if o.UID <= 0 || o.GID <= 0 || !filepath.IsAbs(socket) || !filepath.IsAbs(o.StateDir) || !filepath.IsAbs(o.Jails) || set.NArg() > 0 {
			return errors.New("--uid, --gid, --socket and --state-dir are needed, paths are absolute; nobody serves root")
		}
		if o.UIDBase < 1000 || o.UIDCount < 1 || o.UIDBase <= o.UID && o.UID <= o.UIDBase+o.UIDCount {
			return errors.New("the uids for VMMs must be others than the user's, from 1000 on")
		}
		return nil
	}()
	if err != nil {
		fmt.Fprintf(stderr, "bangerd-root: %s\n", err)
	}
	return o, socket, err
}

func run(ctx context.Context, o Options, socket string) (err error) {
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "bangerd-root needs root: it does for bangerd what only root may")
	}
	if err := confine(); err != nil {
		return err
	}
	l, err := listen(socket, o.UID)
	if err != nil {
		return err
	}
	s := New(o)
	if err := s.revokeNodes(); err != nil {
		return errors.Join(err, l.Close())
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	o.Log.Info("serving", "socket", socket, "uid", o.UID, "state", o.StateDir, "version", api.Version)
	err = s.Serve(l)
	// The socket's file stays: who connects before the next one listens is refused at once, and tries again.
	return err
}

// confine gives up, for this process and all that it starts, what no verb needs. Each thread has its own sets, so one thread
// gives up and becomes the whole process by executing the program again; that finds nothing left to give up.
func confine() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	keep := map[int]bool{}
	for _, c := range verb.Capabilities() {
		keep[c.Number] = true
	}
	bound, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	done := bound == 1
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		// A kernel that does not know it says so by an error.
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil || has == 0 || keep[c] {
			continue
		}
		done = false
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("cannot give up capability %d: %w", c, err)
		}
	}
	if done {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	return fmt.Errorf("cannot execute bangerd-root again: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// listen makes the socket. Its directory must be root's alone, so that nobody can put another in its place.
func listen(path string, uid int) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o755); err == nil {
		err = os.Chmod(dir, 0o755)
		if err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%s is not a directory that only root can write", dir)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is there and is no socket", path)
		}
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("another bangerd-root listens at %s", path)
		}
	}
	// Under another name first: whoever looks for it while we take the place of one that died finds that one's, and waits.
	own := path + ".new"
	if err := os.Remove(own); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: own, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Lchown(own, uid, -1), os.Rename(own, path)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
