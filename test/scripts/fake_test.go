package scripts

import (
	"log/slog"
	"os"
	"os/exec"

	"banger/internal/config"
	"banger/internal/daemon"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/fake"
	"banger/internal/hypervisor/qemu"
)

// behaviourVariable names the file that says how guests misbehave; see fake.Options.
const behaviourVariable = "BANGER_TEST_BEHAVIOUR"

// fakeParts are the parts of the daemon that the scripts replace.
func fakeParts() daemon.Options {
	return daemon.Options{
		Hypervisor: func(cfg *config.Config, h host.Host, log *slog.Logger) (hypervisor.Hypervisor, error) {
			if cfg.Explicit("qemu_binary") { // a script that looks at what is said where there is none
				return qemu.New(qemu.Options{Host: h, Paths: cfg.Paths, Log: log, Binary: cfg.QEMUBinary}), nil
			}
			program, err := exec.LookPath(fake.ProgramName) // absolute: the guest starts it again
			return fake.New(fake.Options{Host: h, Program: program, Behaviour: os.Getenv(behaviourVariable)}), err
		},
	}
}
