package serve

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
)

// maxSignal is SIGRTMAX.
const maxSignal = 64

// parseSignal understands "TERM", "SIGTERM" and "15".
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > maxSignal {
			return 0, api.Errorf(api.CodeInvalid, "no signal %d", n)
		}
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, api.Errorf(api.CodeInvalid, "no signal %q", s)
}

// signalName is the name without SIG, or the number of a signal without a name.
func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}
