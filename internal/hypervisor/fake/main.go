package fake

import (
	"encoding/json"
	"fmt"
	"os"

	"banger/internal/agent/serve"
)

// Main is the program behind Options.Program, with os.Args: the VMM, the guest below it,
// or the holder of a session. It returns an exit code.
func Main(args []string) int {
	if !Wants(args) {
		fmt.Fprintln(os.Stderr, "this program is started by banger's tests only")
		return 2
	}
	if args[1] == roleHold {
		return serve.HoldMain(args[2:])
	}
	var spec machineSpec
	if err := json.Unmarshal([]byte(args[3]), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	run := runVMM
	if args[1] == roleGuest {
		run = runGuest
	}
	code, err := run(args[0], &spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// Wants reports whether a program was started in one of Main's roles: a test binary's
// TestMain asks.
func Wants(args []string) bool {
	if len(args) < 2 {
		return false
	}
	switch args[1] {
	case roleHold:
		return true
	case roleVMM, roleGuest:
		return len(args) == 4
	}
	return false
}
