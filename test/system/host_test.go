package system

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// boots are the host's lives, each with its parts in their order. What a part asserts is its own; the next one needs its outcome.
func boots() [][]part {
	return [][]part{
		{
			{"witness", witness},
			{"install", installHelped},
			{"machines", startHelped},
			{"restarts", restartHelped},
			{"kill -9 of bangerd-root", killRoot},
			{"user units", installUser},
		},
		{
			{"shutdown", afterShutdown},
			{"boot", afterBoot},
			{"user units after the boot", afterUserBoot},
			{"uninstall of user units", uninstallUser},
			{"uninstall", uninstallHelped},
			{"as root", installRoot},
		},
		{
			{"shutdown as root", afterRootShutdown},
			{"uninstall as root", uninstallRoot},
		},
	}
}

type part struct {
	name string
	run  func(t *testing.T)
}

// TestHost is the whole life of an installation. With the first part that fails it ends: a reboot would lose why.
func TestHost(t *testing.T) {
	if os.Getenv("LAB") == "" {
		const why = "this test installs units and reboots the host: make lab SUITES=system"
		if os.Getenv("BANGER_TEST_NO_SKIP") != "" {
			t.Fatal("MUST NOT BE SKIPPED: " + why)
		}
		t.Skip("SKIPPED: " + why)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Fatal("this lab host is not run by systemd")
	}
	boot, err := strconv.Atoi(os.Getenv("LAB_BOOT"))
	if err != nil || boot < 1 || boot > len(boots()) {
		t.Fatalf("the host was booted %q times: it was not us who did that", os.Getenv("LAB_BOOT"))
	}
	t.Logf("boot %d, %s s after the kernel's start", boot, strings.Fields(read(t, "/proc/uptime"))[0])
	for _, p := range boots()[boot-1] {
		begin := time.Now()
		if !t.Run(p.name, p.run) {
			tellStory(t)
			t.FailNow()
		}
		t.Logf("%s took %.1f s", p.name, time.Since(begin).Seconds())
	}
	if boot < len(boots()) {
		reboot(t)
	}
}

// reboot does not return: what stops this program is the host's shutdown.
func reboot(t *testing.T) {
	keep(t, "rebooted", time.Now())
	root.must(t, "systemctl", "reboot")
	time.Sleep(5 * time.Minute)
	tellStory(t)
	t.Fatal("the host does not go down")
}

// tellStory logs what helps to see why a part failed.
func tellStory(t *testing.T) {
	for _, args := range [][]string{
		{"journalctl", "--no-pager", "-n", "80", "-o", "short-precise", "-u", "bangerd*", "-u", "user@*"},
		{"systemctl", "--no-pager", "list-jobs"}, {"ps", "-ww", "-o", "pid,user,cgroup:60,args", "--ppid", "2", "-p", "2", "--deselect"},
	} {
		out, _ := exec.Command(args[0], args[1:]...).CombinedOutput() // the story of a failure: its own is nothing to add
		t.Logf("%v:\n%s", args, out)
	}
	for _, state := range []string{systemState, userHome + "/.local/state/banger"} {
		logs, _ := filepath.Glob(filepath.Join(state, "vms", "*", "v", "console.log"))
		for _, path := range append(logs, filepath.Join(state, "bangerd.log")) {
			if out, err := exec.Command("tail", "-n", "60", path).Output(); err == nil {
				t.Logf("end of %s:\n%s", path, out)
			}
		}
	}
}

// keep and kept are a boot's word to the next one.
func keep(t *testing.T, name string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join("/var/lib/lab", name+".json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func kept[T any](t *testing.T, name string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, filepath.Join("/var/lib/lab", name+".json"))), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
