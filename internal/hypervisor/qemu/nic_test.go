package qemu

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/api/agentapi"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/loud"
)

// Each kind of network device must reach the guest with its address.
func TestNIC(t *testing.T) {
	t.Parallel()
	t.Run("Socket", func(t *testing.T) {
		t.Parallel()
		h, m := newHypervisor(t), theLab.Machine(t)
		path := filepath.Join(m.Dir, "n")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		m.NIC = &hypervisor.NIC{Kind: hypervisor.NICSocket, MAC: "52:54:00:12:34:56", Socket: path}
		testNIC(t, h, m)
	})
	t.Run("Tap", func(t *testing.T) {
		t.Parallel()
		h, m := newHypervisor(t), theLab.Machine(t)
		if os.Geteuid() != 0 {
			loud.Skip(t, "a tap needs root")
		}
		// In no bridge: nothing that the guest sends gets anywhere.
		name := fmt.Sprintf("bgq%d", os.Getpid())
		tap, err := h.host.OpenTap(bounded(t, time.Minute), host.Tap{Name: name, MTU: 1500, Owner: m.UID})
		if err != nil {
			loud.Skip(t, "%v", err)
		}
		t.Cleanup(func() { _ = h.host.DeleteLink(bounded(t, time.Minute), name) })
		defer tap.Close()
		m.NIC = &hypervisor.NIC{Kind: hypervisor.NICTap, MAC: "52:54:00:12:34:56", Tap: tap}
		testNIC(t, h, m)
	})
}

func testNIC(t *testing.T, h *Hypervisor, m hypervisor.Machine) {
	t.Helper()
	i := startMachine(t, h, m)
	awaitAgent(t, i)
	session(t, i, "nic", "read mac </sys/class/net/eth0/address; [ $mac = "+m.NIC.MAC+" ]")
	for ctx := bounded(t, time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var s agentapi.Session
		if err := call(ctx, i, http.MethodGet, "/sessions/nic", "", &s); err != nil {
			t.Fatal(err)
		}
		if s.State == "exited" {
			if s.ExitCode != 0 {
				t.Errorf("the guest has no eth0 of that address: %+v", s)
			}
			return
		}
	}
}
