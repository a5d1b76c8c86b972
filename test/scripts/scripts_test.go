// Package scripts runs the scenario scripts (*.txtar): the real command line and the
// real daemon, over a hypervisor whose guests are processes of this host (hypervisor/fake). They
// need neither root nor a virtual machine. Every command of banger stands in at least
// one of them; a test in package cli looks.
package scripts

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/internal/cli"
	"banger/internal/daemon"
	"banger/internal/hypervisor/fake"
)

func TestMain(m *testing.M) {
	// Scripts wait more than they work.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"banger":            func() { os.Exit(cli.Main(context.Background(), os.Args[1:], cli.OS())) },
		"git-remote-banger": func() { os.Exit(cli.GitRemote(context.Background(), os.Args[1:], cli.OS())) },
		"bangerd": func() {
			os.Exit(daemon.Run(context.Background(), os.Args[1:], daemon.OS(), fakeParts()))
		},
		// The processes of the guests, and of their sessions.
		fake.ProgramName: fakeMain,
		fake.HoldName:    fakeMain,
		"listen":         listen,
	})
}

// fakeMain gives the program its full name back, which testscript has shortened: it starts itself again.
func fakeMain() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	os.Exit(fake.Main(append([]string{self}, os.Args[1:]...)))
}

// scriptsTime bounds all scripts together: one that hangs says where.
const scriptsTime = 10 * time.Minute

func TestScripts(t *testing.T) {
	t.Parallel()
	template := makeTemplate(t)
	testscript.Run(t, testscript.Params{
		Deadline:            time.Now().Add(scriptsTime),
		Dir:                 ".",
		RequireUniqueNames:  true,
		RequireExplicitExec: false,
		Setup:               func(e *testscript.Env) error { return setup(e, template) },
		Cmds:                commands(),
		Condition:           condition,
	})
}

// setup gives a script a banger of its own.
func setup(e *testscript.Env, template string) error {
	// Not below $WORK: a socket's path may have 107 bytes.
	dir, err := os.MkdirTemp("", "bgr")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // another user of a script passes through it
		return err
	}
	own := filepath.Join(dir, "b")
	listener, err := exec.LookPath("listen")
	if err != nil {
		return err
	}
	e.Vars = append(e.Vars, "LISTEN="+listener, behaviourVariable+"="+filepath.Join(own, "behaviour"), memoryVariable+"="+filepath.Join(own, "memory"))
	e.Vars = append(e.Vars, environment(own)...)
	if race, ok := os.LookupEnv("GORACE"); ok { // see the Makefile: or each command ends with a second's sleep
		e.Vars = append(e.Vars, "GORACE="+race)
	}
	e.Vars = append(e.Vars, "BASE="+dir, "STATE="+filepath.Join(own, "s"), "RUN="+filepath.Join(own, "r"), "CONFIG="+filepath.Join(own, "c"), "HOME="+filepath.Join(own, "home"))
	e.Defer(func() {
		endDaemon(e.T(), own)
		endDaemon(e.T(), filepath.Join(dir, "nobody")) // one that a script has run as another user
		if err := os.RemoveAll(dir); err != nil {
			e.T().Log("cannot clean up: ", err)
		}
	})
	for _, d := range []string{own, filepath.Join(own, "c"), filepath.Join(own, "home")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return copyState(template, filepath.Join(own, "s"))
}

// environment points banger at directories below dir, and at what the template state holds.
func environment(dir string) []string {
	return []string{
		"BANGER_STATE_DIR=" + filepath.Join(dir, "s"), "BANGER_RUNTIME_DIR=" + filepath.Join(dir, "r"), "BANGER_CONFIG_DIR=" + filepath.Join(dir, "c"),
		"BANGER_IMAGE=tiny", "BANGER_KERNEL=test", "BANGER_NET=none", "BANGER_MEMORY=64M", "BANGER_CPUS=1", "BANGER_DISK_SIZE=64M", "BANGER_POOL=0",
	}
}
