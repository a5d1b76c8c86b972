package daemon

import (
	"encoding/json"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"banger/api"
)

// ready tells whoever started us how the start went: the client by a line on a pipe,
// systemd by its socket. Either may be absent.
type ready struct{ pipe *os.File }

func newReady(fd int) *ready {
	if fd < 0 {
		return &ready{}
	}
	unix.CloseOnExec(fd) // a VMM that inherits it would keep the client waiting
	return &ready{os.NewFile(uintptr(fd), "ready")}
}

// unit is systemd's unit that this process is the service of; empty where a command has started it. Only a manager of services gives
// its own a socket to say that they are ready, and our client hands on none (sd_notify(3)); the unit's name is that of its cgroup.
func unit(environ []string) string {
	if !slices.ContainsFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, "NOTIFY_SOCKET=") }) {
		return ""
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return unitOf(string(text))
}

// unitOf reads /proc/PID/cgroup: "HIERARCHY:CONTROLLERS:PATH" in each line (cgroups(7)).
func unitOf(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "" && f[1] != "name=systemd" {
			continue
		}
		if name := path.Base(f[2]); strings.HasSuffix(name, ".service") {
			return name
		}
	}
	return ""
}

// Serving says that the socket answers.
func (r *ready) Serving() {
	r.say([]byte("ready"))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
}

// Stopping tells systemd that the end has begun.
func (r *ready) Stopping() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) }

// Refused says why there will be no daemon. After Serving it says nothing.
func (r *ready) Refused(e *api.Error) {
	line, err := json.Marshal(api.ErrorBody{Error: *e})
	if err != nil {
		return
	}
	r.say(line)
}

func (r *ready) say(line []byte) {
	if r.pipe == nil {
		return
	}
	_, _ = r.pipe.Write(append(line, '\n')) // a client that has gone needs no answer
	r.Close()
}

func (r *ready) Close() {
	if r.pipe != nil {
		_ = r.pipe.Close()
		r.pipe = nil
	}
}
