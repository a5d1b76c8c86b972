package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/frame/link"
	"banger/internal/hypervisor/vmm"
)

// bareThaw thaws a template by QEMU alone: banger's own arguments, no daemon, no records, no network but a tap that leads nowhere.
type bareThaw struct {
	b        *bench
	dir      string
	argv     []string
	template string // its directory
	memory   string // of the VMM that the arguments are from
	state    []byte
}

func (b *bench) newBareThaw(name string) (*bareThaw, error) {
	var vm api.VM
	err := b.json(&vm, "show", "--json", name)
	t := &bareThaw{b: b, dir: filepath.Join(b.dir, "t"), template: filepath.Join(b.state, "templates", vm.Runtime.RootTemplateID)}
	pid, argv, verr := vmmOf(vm.ID)
	file, ferr := os.ReadFile(filepath.Join(t.template, "device"))
	if err := errors.Join(err, verr, ferr, os.Mkdir(t.dir, 0o700)); err != nil {
		return nil, err
	}
	t.state = file[bytes.IndexByte(file[20:], 0)+21:] // behind the header and its JSON: QEMU's own stream
	for _, a := range argv {
		a = strings.ReplaceAll(a, vm.Runtime.VMDir+"/v", t.dir)
		if m := regexp.MustCompile(`mem-path=/proc/self/fd/(\d+)`).FindStringSubmatch(a); m != nil {
			t.memory = fmt.Sprintf("/proc/%d/fd/%s", pid, m[1])
			a = strings.Replace(a, m[0], "mem-path=/proc/self/fd/5", 1)
		}
		t.argv = append(t.argv, regexp.MustCompile(`^tap,id=net0,fd=\d+`).ReplaceAllString(a, "tap,id=net0,fd=6"))
	}
	return t, nil
}

// do returns the time from QEMU's start to the agent's answer; making the disks and clearing up are not in it.
func (t *bareThaw) do(int) (_ float64, err error) {
	for _, d := range []string{"root", "work"} {
		_ = os.Remove(filepath.Join(t.dir, d))
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", filepath.Join(t.template, d), filepath.Join(t.dir, d)).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("qemu-img: %w: %s", err, out)
		}
	}
	control, qmp, err := vmm.ListenConnected(filepath.Join(t.dir, "c"))
	agent, conn, aerr := vmm.ListenConnected(filepath.Join(t.dir, "a"))
	memory, merr := os.OpenFile(t.memory, os.O_RDONLY, 0)
	tap, terr := openTap()
	fd, serr := unix.MemfdCreate("state", 0)
	if err := errors.Join(err, aerr, merr, terr, serr); err != nil {
		return 0, err
	}
	state := os.NewFile(uintptr(fd), "state")
	cmd := exec.Command(t.argv[0], t.argv[1:]...)
	cmd.ExtraFiles = []*os.File{control, agent, memory, tap, state} // 3 to 7
	defer func() {
		for _, f := range append([]*os.File{}, cmd.ExtraFiles...) {
			_ = f.Close()
		}
		_, _ = qmp.Close(), conn.Close()
	}()
	begin := time.Now()
	if _, err := state.WriteAt(t.state, 0); err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	answered := make(chan error, 1)
	go func() {
		_, err := link.DialThawed(t.b.ctx, conn, uint64(begin.UnixNano()), nil)
		answered <- err
	}()
	if err := thawByQMP(qmp); err != nil {
		return 0, err
	}
	err = <-answered
	return float64(time.Since(begin).Microseconds()) / 1000, err
}

// thawByQMP loads the state from descriptor 7 and lets the guest go on.
func thawByQMP(c net.Conn) error {
	replies := bufio.NewScanner(c)
	for _, step := range [][2]string{
		{`{"execute":"qmp_capabilities"}`, `"return"`},
		{`{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":true}]}}`, `"return"`},
		{`{"execute":"migrate-set-parameters","arguments":{"announce-rounds":0}}`, `"return"`},
		{`{"execute":"migrate-incoming","arguments":{"uri":"fd:7"}}`, `"completed"`},
		{`{"execute":"cont"}`, `"RESUME"`},
	} {
		if _, err := fmt.Fprintln(c, step[0]); err != nil {
			return err
		}
		for found := false; !found; found = strings.Contains(replies.Text(), step[1]) {
			if !replies.Scan() || strings.Contains(replies.Text(), `"error"`) {
				return fmt.Errorf("QEMU to %s: %s %w", step[0], replies.Text(), errors.Join(replies.Err()))
			}
		}
	}
	return nil
}
