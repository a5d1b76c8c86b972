// Package agent is the guest's half of banger: /init of its initramfs, the bare
// reaper that PID 1 becomes where the image has no init, and the agent that serves
// the host. It owns the guest's mounts, disks, network, identity, clock and end.
// Only cmd/banger-agent imports it. Of banger's packages it imports api, frame and
// its own serve only.
//
// One program, three processes:
//
//	/init, PID 1        boot: modules, root, mounts; then it either executes the image's
//	                    systemd in its place, or stays: reaps, keeps the agent alive,
//	                    and ends the guest when told (reaper.go, end.go)
//	@banger-supervisor  beside systemd only: keeps the agent alive
//	@banger-agent       serves the host; the first character keeps systemd from
//	                    killing it at shutdown (systemd.io, ROOT_STORAGE_DAEMONS)
package agent

import (
	"context"
	"fmt"
	"io"
	"os"

	"banger/api/agentapi"
	"banger/internal/agent/serve"
)

// Roles, as the first argument.
const (
	roleSupervisor = "supervise"
	roleAgent      = "serve"
	roleHold       = "hold" // a session's keeper: package serve
)

// Inits, as in agentapi.Health and the second argument.
const (
	initNone    = "none"
	initSystemd = "systemd"
)

// Where the agent keeps its things in the guest: a tmpfs in all cases.
const (
	runDir = "/run/banger"
	// bootDir shows InitramfsDir after the switch of the root: the agent's own program
	// and the file system tools, whatever the image lacks.
	bootDir  = runDir + "/boot"
	workDir  = runDir + "/work"
	heldFile = runDir + "/held"
	// endFile tells the reaper how long commands may take to end, in milliseconds.
	endFile = runDir + "/end"
)

// Stdio is what the program was started with.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main runs the role that args (with args[0]) ask for, and returns an exit code. As PID 1 it
// boots the guest and does not return.
func Main(ctx context.Context, args []string, stdio Stdio) int {
	if os.Getpid() == 1 {
		bootGuest(ctx)
	}
	if len(args) > 1 && args[1] == roleHold {
		return serve.HoldMain(args[2:])
	}
	if len(args) == 3 && (args[2] == initNone || args[2] == initSystemd) {
		switch args[1] {
		case roleSupervisor:
			return superviseAgent(args[2])
		case roleAgent:
			return runAgent(ctx, args[2], stdio)
		}
	}
	fmt.Fprintf(stdio.Err, "%s is the program inside banger's guests; it runs as PID 1 of %s\n", args[0], agentapi.InitramfsDir)
	return 2
}
