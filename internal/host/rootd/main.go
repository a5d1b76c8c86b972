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
	"syscall"
	"unsafe"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"banger/api"
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
		if o.UID <= 0 || o.GID <= 0 || !filepath.IsAbs(socket) || !filepath.IsAbs(o.StateDir) || set.NArg() > 0 {
			return errors.New("--uid, --gid, --socket and --state-dir are needed; nobody serves root")
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
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	o.Log.Info("serving", "socket", socket, "uid", o.UID, "state", o.StateDir, "version", api.Version)
	err = s.Serve(l)
	// The socket's file stays: who connects before the next one listens is refused at once, and tries again.
	return err
}

// needed are all capabilities that any verb takes.
func needed() []int {
	return []int{
		unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_DAC_OVERRIDE, // files
		unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL, unix.CAP_SYS_PTRACE, unix.CAP_SYS_RESOURCE, // processes
		unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, // networks
		unix.CAP_SYS_ADMIN, unix.CAP_MKNOD, unix.CAP_SYS_CHROOT, // block devices and jails
	}
}

// confine gives up, for this process and all that it starts, what no verb needs.
func confine() error {
	// Each thread has sets of its own.
	var sets [2]unix.CapUserData // of 32 capabilities each: capget(2)
	for _, c := range needed() {
		sets[c/32].Effective |= 1 << (c % 32)
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		// systemd may have done it before us, and taken the right to do it.
		if had, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil || had == 0 || sets[c/32].Effective&(1<<(c%32)) != 0 {
			continue
		}
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); errno != 0 {
			return fmt.Errorf("cannot drop capability %d: %w", c, errno)
		}
	}
	var have [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &have[0]); err != nil {
		return fmt.Errorf("cannot read our capabilities: %w", err)
	}
	for i := range sets {
		sets[i].Effective &= have[i].Permitted
		sets[i].Permitted = sets[i].Effective
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&sets[0])), 0); errno != 0 {
		return fmt.Errorf("cannot give up capabilities: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot set no_new_privs: %w", errno)
	}
	return nil
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
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Lchown(path, uid, -1); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
