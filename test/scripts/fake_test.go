package scripts

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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

// hypervisorsVariable names the fakes of a daemon that is to have several, the better ones first.
const hypervisorsVariable = "BANGER_TEST_HYPERVISORS"

// memoryVariable names a file that says how the host is off for memory: MiB in all, MiB available, percent of pressure, and
// how many MiB less are available for each VM.
const memoryVariable = "BANGER_TEST_MEMORY"

// fakeMemory has plenty where the script says nothing.
func fakeMemory() template.Memory {
	m := template.Memory{Total: 16 << 30, Available: 8 << 30}
	if text, err := os.ReadFile(os.Getenv(memoryVariable)); err == nil {
		var each int64
		if _, err := fmt.Sscan(string(text), &m.Total, &m.Available, &m.Pressure, &each); err != nil {
			panic(err)
		}
		vms, _ := filepath.Glob(filepath.Join(os.Getenv("BANGER_STATE_DIR"), "vms", "*"))
		m.Total, m.Available = m.Total<<20, (m.Available-each*int64(len(vms)))<<20
	}
	return m
}

// fakeParts are the parts of the daemon that the scripts replace.
func fakeParts() daemon.Options {
	return daemon.Options{
		Memory: fakeMemory,
		Hypervisors: func(cfg *config.Config, h host.Host, log *slog.Logger) ([]hypervisor.Hypervisor, error) {
			if cfg.Explicit("qemu_binary") { // a script that looks at what is said where there is none
				return []hypervisor.Hypervisor{qemu.New(qemu.Options{Host: h, Paths: cfg.Paths, Log: log, Binary: cfg.QEMUBinary})}, nil
			}
			program, err := exec.LookPath(fake.ProgramName) // absolute: the guest starts it again
			names := strings.Fields(cmp.Or(os.Getenv(hypervisorsVariable), fake.Name))
			var all []hypervisor.Hypervisor
			for _, name := range names {
				all = append(all, fake.New(fake.Options{Host: h, Name: name, Program: program, Behaviour: os.Getenv(behaviourVariable)}))
			}
			return all, err
		},
	}
}
