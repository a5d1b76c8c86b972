package server

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// earlyTime is how long info waits for a daemon that has just begun.
const earlyTime = 2 * time.Second

func (s *Server) info(c *call) (api.Info, error) {
	i := api.Info{
		Version: api.Version, UID: s.UID, PID: os.Getpid(), Unit: s.Unit, Rights: s.Rights, StartedAt: s.StartedAt,
		StateDir: s.Config.Paths.State, Socket: s.Config.Paths.Socket(),
		CPUs: runtime.NumCPU(), DefaultNet: api.NetKind(s.Config.Net),
		Problems: s.problems(),
	}
	problem := func(format string, args ...any) { i.Problems = append(i.Problems, fmt.Sprintf(format, args...)) }
	// A daemon that was started for this very call is about to know; one that hangs must say so.
	select {
	case <-s.ready:
	case <-c.ctx.Done():
		return i, context.Cause(c.ctx)
	case <-time.After(earlyTime):
		problem("still looking for the machines that an earlier daemon left")
	}
	s.describeHost(&i, problem)
	s.describeObjects(c.ctx, &i, problem)
	s.describeHypervisors(c.ctx, &i, problem)
	for _, check := range s.Doctor(c.ctx) {
		if check.Verdict == api.VerdictFail {
			problem("%s: %s", check.Name, check.Detail)
		}
	}
	i.Health = "ok"
	if len(i.Problems) > 0 {
		i.Health = "degraded"
	}
	return i, nil
}

func (s *Server) describeHypervisors(ctx context.Context, i *api.Info, problem func(string, ...any)) {
	for _, b := range s.Backends.All() {
		h := api.Hypervisor{Name: b.Name()}
		if f, err := b.Hypervisor.Features(ctx); err != nil {
			e := api.AsError(err)
			h.Reason, h.Hint = e.Message, e.Hint
		} else {
			h.Usable, h.Version, h.Accel, h.Reason, h.Hint = true, f.Version, f.Accel, f.AccelReason, f.AccelHint
		}
		i.Hypervisors = append(i.Hypervisors, h)
	}
	b, err := s.Backends.Choose(ctx, "", api.NetKind(s.Config.Net))
	if err != nil {
		problem("%v", err)
		return
	}
	i.Hypervisor, i.HypervisorReason = b.Name(), b.Why
	i.Accel, i.AccelReason, i.AccelHint = b.Features.Accel, b.Features.AccelReason, b.Features.AccelHint
}

func (s *Server) describeObjects(ctx context.Context, i *api.Info, problem func(string, ...any)) {
	vms, err := s.VMs.Records.Count(ctx)
	if err != nil {
		problem("cannot count machines: %v", err)
	}
	i.PoolReady, i.PoolWanted = s.VMs.Pool.State()
	for state, n := range vms {
		if state == api.StatePooled {
			continue
		}
		i.VMs += n
		if state == api.StateRunning {
			i.VMsRunning += n
		}
	}
	if i.Images, err = s.Images.Images(ctx); err != nil {
		problem("cannot list images: %v", err)
	}
	if i.Kernels, err = s.Images.Kernels(ctx); err != nil {
		problem("cannot list kernels: %v", err)
	}
}

// describeHost reads what is free: MemAvailable counts page cache as free, since a guest may push it out.
func (s *Server) describeHost(i *api.Info, problem func(string, ...any)) {
	mem, err := meminfo("/proc/meminfo")
	if err != nil {
		problem("cannot read the host's memory: %v", err)
	}
	i.MemoryBytes, i.MemoryFreeBytes = mem["MemTotal"], mem["MemAvailable"]
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(text), " ")
		i.CPULoad, _ = strconv.ParseFloat(first, 64)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Config.Paths.State, &fs); err != nil {
		problem("cannot read the free space of %s: %v", s.Config.Paths.State, err)
	} else {
		i.DiskFreeBytes = int64(fs.Bavail) * fs.Bsize
	}
}

// meminfo reads "Name:   123 kB" lines into bytes.
func meminfo(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make(map[string]int64)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if fields := strings.Fields(rest); len(fields) == 2 && fields[1] == "kB" {
			if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
				out[name] = n << 10
			}
		}
	}
	return out, nil
}
