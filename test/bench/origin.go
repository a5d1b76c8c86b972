package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// originAddress is of a network for tests of this kind (RFC 2544), which is in our namespaces only.
const originAddress = "198.18.7.2"

// origin is the host as a guest reaches it by ssh: from another network namespace, since guests may not reach the host itself.
type origin struct {
	dir, key string
	holder   *exec.Cmd
	sshd     *exec.Cmd
	made     bool // the directory that sshd wants
}

const sshdDirectory = "/run/sshd"

func (b *bench) newOrigin() (_ *origin, err error) {
	o := &origin{dir: filepath.Join(b.dir, "origin")}
	o.key = filepath.Join(o.dir, "key")
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	o.made = os.Mkdir(sshdDirectory, 0o755) == nil //nolint:gosec // as sshd's own unit makes it
	if err := os.Mkdir(o.dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"key", "host"} {
		if err := do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(o.dir, name)); err != nil {
			return nil, err
		}
	}
	o.holder = exec.Command("unshare", "--net", "sleep", "infinity")
	o.holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := o.holder.Start(); err != nil {
		return nil, err
	}
	pid := fmt.Sprint(o.holder.Process.Pid)
	own, _ := os.Readlink("/proc/self/ns/net")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // until unshare has done its work
		if its, err := os.Readlink("/proc/" + pid + "/ns/net"); err == nil && its != own {
			break
		}
		if time.Now().After(deadline) {
			return nil, errors.New("no network namespace for the origin")
		}
	}
	for _, words := range [][]string{
		{"ip", "link", "add", "origin0", "type", "veth", "peer", "name", "origin1", "netns", pid},
		{"ip", "address", "add", "198.18.7.1/30", "dev", "origin0"},
		{"ip", "link", "set", "origin0", "up"},
		{"nsenter", "-t", pid, "-n", "ip", "address", "add", originAddress + "/30", "dev", "origin1"},
		{"nsenter", "-t", pid, "-n", "ip", "link", "set", "origin1", "up"},
		{"nsenter", "-t", pid, "-n", "ip", "link", "set", "lo", "up"},
	} {
		if err := do(words[0], words[1:]...); err != nil {
			return nil, err
		}
	}
	o.sshd = exec.Command("nsenter", "-t", pid, "-n", "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", "22",
		"-h", filepath.Join(o.dir, "host"), "-o", "AuthorizedKeysFile="+o.key+".pub", "-o", "StrictModes=no", "-o", "UsePAM=no",
		"-o", "PermitRootLogin=prohibit-password", "-o", "PidFile=none", "-o", "UseDNS=no")
	o.sshd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := o.sshd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", originAddress+":22", time.Second)
		if err == nil {
			return o, conn.Close()
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the origin's sshd does not answer: %w", err)
		}
	}
}

func (o *origin) close() error {
	var errs []error
	for _, cmd := range []*exec.Cmd{o.sshd, o.holder} {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			_ = cmd.Wait()                          // by that signal
		}
	}
	if o.holder != nil {
		_ = do("ip", "link", "del", "origin0") // gone with the namespace, as a rule
	}
	if o.made {
		errs = append(errs, os.Remove(sshdDirectory))
	}
	return errors.Join(append(errs, os.RemoveAll(o.dir))...)
}

func do(program string, args ...string) error {
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", program, args, err, out)
	}
	return nil
}
