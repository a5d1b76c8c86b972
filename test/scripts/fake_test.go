package scripts

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"

	"banger/internal/config"
	"banger/internal/daemon"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/fake"
	"banger/internal/hypervisor/qemu"
	"banger/internal/template"
)

// behaviourVariable names the file that says how guests misbehave; see fake.Options.
const behaviourVariable = "BANGER_TEST_BEHAVIOUR"

// memoryVariable names a file that says how the host is off for memory: MiB in all, MiB available, percent of pressure.
const memoryVariable = "BANGER_TEST_MEMORY"

// fakeMemory has plenty where the script says nothing.
func fakeMemory() template.Memory {
	m := template.Memory{Total: 16 << 30, Available: 8 << 30}
	if text, err := os.ReadFile(os.Getenv(memoryVariable)); err == nil {
		if _, err := fmt.Sscan(string(text), &m.Total, &m.Available, &m.Pressure); err != nil {
			panic(err)
		}
		m.Total, m.Available = m.Total<<20, m.Available<<20
	}
	return m
}

// fakeParts are the parts of the daemon that the scripts replace.
func fakeParts() daemon.Options {
	return daemon.Options{
		Memory: fakeMemory,
		Hypervisor: func(cfg *config.Config, h host.Host, log *slog.Logger) (hypervisor.Hypervisor, error) {
			if cfg.Explicit("qemu_binary") { // a script that looks at what is said where there is none
				return qemu.New(qemu.Options{Host: h, Paths: cfg.Paths, Log: log, Binary: cfg.QEMUBinary}), nil
			}
			program, err := exec.LookPath(fake.ProgramName) // absolute: the guest starts it again
			return fake.New(fake.Options{Host: h, Program: program, Behaviour: os.Getenv(behaviourVariable)}), err
		},
	}
}
