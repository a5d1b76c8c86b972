package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a line of /proc/PID/stat.
type process struct {
	pid, tty int
}

// processes are all that run, without PID 1, kernel threads and the dead.
func processes() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []process
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid <= 2 {
			continue
		}
		data, err := os.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue
		}
		if p, ok := parseStat(pid, string(data)); ok {
			out = append(out, p)
		}
	}
	return out
}

// parseStat reads what follows the name, which may hold anything, in a line of
// /proc/PID/stat (proc(5)): state, ppid, pgrp, session, tty_nr.
func parseStat(pid int, line string) (process, bool) {
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return process{}, false
	}
	f := strings.Fields(line[i+1:])
	if len(f) < 5 || f[0] == "Z" || f[0] == "X" || f[1] == "2" { // 2 is kthreadd
		return process{}, false
	}
	tty, _ := strconv.Atoi(f[4])
	return process{pid: pid, tty: tty}, true
}

// askToEnd sends TERM. Shells at a terminal ignore that: they get HUP, as when a
// terminal goes.
func askToEnd(ps []process) {
	for _, p := range ps {
		_ = unix.Kill(p.pid, unix.SIGTERM)
		if p.tty != 0 {
			_ = unix.Kill(p.pid, unix.SIGHUP)
		}
		_ = unix.Kill(p.pid, unix.SIGCONT)
	}
}

func kill(ps []process) {
	for _, p := range ps {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

// others are all processes but the agent, which has the host to talk to until the last moment.
func others(agent int) []process {
	return slices.DeleteFunc(processes(), func(p process) bool { return p.pid == agent })
}

// commands are the processes that the host had started, by the groups that package serve
// puts them in.
func commands() []process {
	own := strings.TrimPrefix(agentCgroup, cgroupRoot)
	ours := strings.TrimPrefix(filepath.Dir(agentCgroup), cgroupRoot) + "/"
	return slices.DeleteFunc(processes(), func(p process) bool {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
		group := strings.TrimPrefix(strings.TrimSpace(string(data)), "0::")
		return group == own || !strings.HasPrefix(group, ours)
	})
}
