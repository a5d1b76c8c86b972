package firecracker

import (
	"testing"

	"banger/internal/host"
	"banger/internal/hypervisor"
)

func attachTo(*Options, host.Host) {}

func layered(_ testing.TB, m hypervisor.Machine) hypervisor.Machine { return m }

func layer(t testing.TB, base hypervisor.Drive, path string, uid int) hypervisor.Drive {
	t.Helper()
	need(t, "there are no layers yet")
	return base
}
