package local

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"banger/internal/host"
)

// clockTicks is USER_HZ, the unit of times in /proc: 100 on every Linux architecture that Go knows.
const clockTicks = 100

// stat is what we need of /proc/PID/stat (proc(5)).
type stat struct {
	state    byte
	cpuTicks uint64 // utime + stime
	start    uint64 // field 22
	rssPages int64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads from the last ')' on: the program's name before it may hold anything.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, fmt.Errorf("cannot parse /proc/PID/stat: %q", b)
	}
	f := bytes.Fields(b[i+1:]) // f[0] is field 3
	if len(f) < 22 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("cannot parse /proc/PID/stat: %q", b)
	}
	var nums [4]uint64
	for n, field := range []int{14, 15, 22, 24} {
		v, err := strconv.ParseUint(string(f[field-3]), 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("cannot parse field %d of /proc/PID/stat: %w", field, err)
		}
		nums[n] = v
	}
	return stat{state: f[0][0], cpuTicks: nums[0] + nums[1], start: nums[2], rssPages: int64(nums[3])}, nil
}

// CommandLine is the argv of a process; empty for a kernel thread or a zombie.
func (processes) CommandLine(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// Owner is the user id that a process runs under.
func (processes) Owner(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		// Uid: real, effective, saved set, file system
		if f := strings.Fields(line); len(f) == 5 && f[0] == "Uid:" {
			return strconv.Atoi(f[2])
		}
	}
	return 0, fmt.Errorf("/proc/%d/status names no uid", pid)
}

// PIDs lists all processes that we may see, in no order.
func (processes) PIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// Usage is what the process has used so far.
func (processes) Usage(p host.Process) (host.Usage, error) {
	st, err := readStat(p.PID)
	if err == nil && st.start != p.StartTime {
		err = os.ErrNotExist
	}
	if err != nil {
		return host.Usage{}, fmt.Errorf("cannot read the usage of process %d: %w", p.PID, err)
	}
	return host.Usage{
		CPU:      time.Duration(st.cpuTicks) * (time.Second / clockTicks),
		RSSBytes: st.rssPages * int64(os.Getpagesize()),
	}, nil
}

// BootID is the host's boot id; empty where /proc does not tell.
func (processes) BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
