package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"banger/internal/hypervisor/qemu"
)

// labHost is one machine with KVM, from its start to the end of its payload.
type labHost struct {
	dir, memory, console string
	results, payload     string
	cpus                 int
	systemd              bool
	timeout              time.Duration
	stdout, stderr       io.Writer
}

var errLate = errors.New("the payload did not end in time")

// run starts the host and returns its payload's exit status.
func (h *labHost) run(ctx context.Context, work string) (int, error) {
	console := h.console
	if console == "" {
		console = filepath.Join(work, "console.log")
	}
	status := filepath.Join(work, "status")
	args, err := h.arguments(ctx, work, console, status)
	if err != nil {
		return codeBroken, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("%w: %s", errLate, h.timeout))
	defer cancel()
	code, err := h.watch(ctx, args, status)
	if err != nil {
		text, _ := os.ReadFile(console)
		fmt.Fprintf(h.stderr, "lab: the end of the host's console:\n%s\n", tail(string(text), 40))
		return code, err
	}
	if h.results != "" {
		if err := h.unpackResults(ctx, work); err != nil {
			return codeBroken, err
		}
	}
	return code, nil
}

// watch runs QEMU until the status is there. The host is ended without being asked: nothing of it is kept.
func (h *labHost) watch(ctx context.Context, args []string, status string) (int, error) {
	// QEMU opens it a second time: were it our stdout itself, a file there would be written over.
	said, says, err := os.Pipe()
	if err != nil {
		return codeBroken, err
	}
	defer said.Close()
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{says}, h.stderr
	err = cmd.Start()
	_ = says.Close()
	if err != nil {
		return codeBroken, err
	}
	ended := make(chan struct{})
	var end error // once ended is closed
	go func() {
		defer close(ended)
		_, cerr := io.Copy(h.stdout, said)
		end = errors.Join(cmd.Wait(), cerr)
	}()
	tick := time.NewTicker(100 * time.Millisecond) // a file that QEMU writes tells nobody
	defer tick.Stop()
	for {
		select {
		case <-ended:
			if code, ok := readStatus(status); ok {
				return code, nil
			}
			return codeBroken, fmt.Errorf("the lab host ended before its payload: %v", end)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-ended
			err := context.Cause(ctx)
			if errors.Is(err, errLate) {
				return codeLate, err
			}
			return codeBroken, err
		case <-tick.C:
			if code, ok := readStatus(status); ok {
				_ = cmd.Process.Kill()
				<-ended
				return code, nil
			}
		}
	}
}

// readStatus reads "CODE\n": without its end the line is not whole.
func readStatus(path string) (int, bool) {
	text, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(text), "\n") {
		return 0, false
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return codeBroken, true
	}
	return code, true
}

// resultsSize is the most that a payload can hand back.
const resultsSize = 256 << 20

func (h *labHost) arguments(ctx context.Context, work, console, status string) ([]string, error) {
	base, err := filepath.Abs(filepath.Join(h.dir, "host.ext4"))
	if err != nil {
		return nil, err
	}
	overlay := filepath.Join(work, "host.qcow2")
	if err := command(ctx, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay); err != nil {
		return nil, fmt.Errorf("cannot make the lab host's disk: %w", err)
	}
	kernel := "console=ttyS0 quiet loglevel=4 tsc=reliable nowatchdog no_timer_check reboot=t panic=1 mitigations=off systemd.unified_cgroup_hierarchy=1" +
		" systemd.show_status=0 systemd.log_target=console"
	if khz := qemu.HostTSC(); khz > 0 {
		kernel += fmt.Sprintf(" tsc_early_khz=%d", khz)
	}
	if !h.systemd {
		kernel += " init=/usr/lib/lab/plain"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "microvm,acpi=on,pit=off", "-accel", "tcg,tb-size=1024",
		// erms and fsrm make emulated kernels copy byte by byte; svm and npt are what makes it a host.
		"-cpu", "max,-erms,-fsrm,+svm,+npt",
		"-smp", strconv.Itoa(h.cpus), "-m", h.memory,
		"-kernel", filepath.Join(h.dir, "vmlinuz"), "-initrd", filepath.Join(h.dir, "initrd"), "-append", kernel,
		"-chardev", "file,id=console,path=" + console, "-serial", "chardev:console",
		"-device", "virtio-serial-device,max_ports=3",
		"-chardev", "file,id=out,append=on,path=/proc/self/fd/3", "-device", "virtserialport,chardev=out,name=lab.out",
		"-chardev", "file,id=status,path=" + status, "-device", "virtserialport,chardev=status,name=lab.status",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng",
	}
	args = append(args, drive("host", overlay, "qcow2", false)...)
	args = append(args, drive("payload", h.payload, "raw", true)...)
	if h.results != "" {
		path := filepath.Join(work, "results.tar")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(path, resultsSize); err != nil {
			return nil, err
		}
		args = append(args, drive("results", path, "raw", false)...)
	}
	return args, nil
}

// drive is a disk with the serial lab-NAME. A host that is thrown away needs no flushes.
func drive(name, path, format string, readOnly bool) []string {
	mode := "off"
	if readOnly {
		mode = "on"
	}
	return []string{
		"-drive", "if=none,id=" + name + ",format=" + format + ",cache=unsafe,readonly=" + mode + ",file=" + path,
		"-device", "virtio-blk-device,drive=" + name + ",serial=lab-" + name,
	}
}

func (h *labHost) unpackResults(ctx context.Context, work string) error {
	if err := os.MkdirAll(h.results, 0o755); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(work, "results.tar"))
	if err != nil {
		return err
	}
	defer f.Close()
	var first [1]byte
	if _, err := io.ReadFull(f, first[:]); err != nil || first[0] == 0 {
		return err // the payload left nothing
	}
	return command(ctx, "", "tar", "--no-same-owner", "-xf", f.Name(), "-C", h.results)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
