package agent

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// defaultEnd is how long commands may take to end when the guest ends itself.
const defaultEnd = 5 * time.Second

// end is the last thing that PID 1 does where it is the reaper: everything is asked to end, then
// made to, file systems are let go, and the machine goes. It does not return.
func end(kind endKind, agent int, sigs <-chan os.Signal) {
	limit := defaultEnd
	if data, err := os.ReadFile(endFile); err == nil {
		if ms, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && ms >= 0 {
			limit = time.Duration(ms) * time.Millisecond
		}
	}
	unix.Sync()
	askToEnd(others(agent))
	awaitEnd(agent, limit, sigs)
	_ = unix.Kill(-1, unix.SIGKILL)
	awaitEnd(0, 2*time.Second, sigs)
	unix.Sync()
	letGo()
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if kind == endReboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	if err := unix.Reboot(how); err != nil {
		console("cannot end the machine: %v", err)
	}
	select {}
}

// awaitEnd waits until nothing but the agent runs. It looks again when a child has
// died, and in between for those that are the agent's children.
func awaitEnd(agent int, limit time.Duration, sigs <-chan os.Signal) {
	timeout := time.After(limit)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		for {
			if pid, _ := collect(); pid <= 0 {
				break
			}
		}
		if len(others(agent)) == 0 {
			return
		}
		select {
		case <-timeout:
			return
		case <-sigs:
		case <-look.C:
		}
	}
}

// letGo unmounts what can be unmounted, last mounted first, and makes the rest read-only.
func letGo() {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return
	}
	var points []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if fields := strings.Fields(sc.Text()); len(fields) > 3 {
			points = append(points, unescapeMount(fields[1]))
		}
	}
	_ = f.Close()
	slices.Reverse(points)
	for _, p := range points {
		if keepMounted(p) {
			continue
		}
		if err := unix.Unmount(p, 0); err != nil {
			_ = unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// keepMounted is true for what holds no data of the guest and is needed to the end.
func keepMounted(p string) bool {
	if p == "/" || p == bootDir || p == "/run" {
		return true
	}
	for _, top := range []string{"/proc", "/sys", "/dev"} {
		if p == top || strings.HasPrefix(p, top+"/") {
			return true
		}
	}
	return false
}

// unescapeMount undoes the octal escapes of /proc/self/mounts.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
