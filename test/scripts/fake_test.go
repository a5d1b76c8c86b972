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
)

// behaviourVariable names the file that says how guests misbehave; see fake.Options.
const behaviourVariable = "BANGER_TEST_BEHAVIOUR"

// fakeParts are the parts of the daemon that the scripts replace.
func fakeParts() daemon.Options {
	return daemon.Options{
		Hypervisor: func(_ *config.Config, h host.Host, _ *slog.Logger) (hypervisor.Hypervisor, error) {
			program, err := exec.LookPath(fake.ProgramName) // absolute: the guest starts it again
			return fake.New(fake.Options{Host: h, Program: program, Behaviour: os.Getenv(behaviourVariable)}), err
		},
	}
}
