package machine

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"banger/api"
)

// capture is all that passes any network device of a box, seen before any rule judges it.
type capture struct {
	cmd  *exec.Cmd
	file string
}

// frame is one of the capture's.
type frame struct {
	device int
	// out is true for what the host sends on the device; a frame that comes in on a tap is the guest's.
	out      bool
	from     net.HardwareAddr
	protocol uint16 // an EtherType
	data     []byte // what follows the Ethernet header
}

const arp, ipv4 = 0x0806, 0x0800

// sender is the hardware address that an ARP frame claims inside.
func (f frame) sender() net.HardwareAddr {
	if f.protocol != arp || len(f.data) < 14 {
		return nil
	}
	return f.data[8:14]
}

func (b *box) capture() *capture {
	b.t.Helper()
	needProgram(b.t, "tcpdump")
	c := &capture{file: filepath.Join(b.dir, "frames")}
	c.cmd = exec.Command("nsenter", "--net="+b.net.path(), "tcpdump", "-Z", "root", "-n", "-U", "-s", "128", "-B", "8192", "-i", "any", "-y", "LINUX_SLL2", "-w", c.file)
	said, err := c.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	awaitText(b.t, said, "listening on")
	return c
}

// end stops the capture and reads it. The formats: pcap-savefile(5), and LINKTYPE_LINUX_SLL2 of libpcap.
func (c *capture) end(t *testing.T) []frame {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
	all, err := os.ReadFile(c.file)
	if err != nil || len(all) < 24 {
		t.Fatalf("the capture: %d bytes, %v", len(all), err)
	}
	var frames []frame
	for rest := all[24:]; len(rest) >= 16; {
		n := int(binary.NativeEndian.Uint32(rest[8:]))
		if len(rest) < 16+n || n < 20 {
			break // cut off in the middle of the last one
		}
		f := rest[16 : 16+n]
		rest = rest[16+n:]
		frames = append(frames, frame{
			protocol: binary.BigEndian.Uint16(f), device: int(binary.BigEndian.Uint32(f[4:])), out: f[10] == 4,
			from: f[12:18], data: f[20:],
		})
	}
	return frames
}

// device is the index of a network device.
func (b *box) device(name string) int {
	b.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(b.net.output("ip", "-o", "link", "show", "dev", name), ":", 2)[0]))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// checkFrames wants every guest to have spoken, as itself only and on its own tap only, and never as the template.
func (b *box) checkFrames(frames []frame, template net.HardwareAddr, vms []api.VM) {
	b.t.Helper()
	tapOf, macOf := map[int]api.VM{}, map[string]int{}
	for _, vm := range vms {
		mac, err := net.ParseMAC(vm.Runtime.MAC)
		if err != nil {
			b.t.Fatal(err)
		}
		tap := b.device(b.tap(vm))
		tapOf[tap], macOf[string(mac)] = vm, tap
	}
	said, wrong := map[string]int{}, 0
	for n, f := range frames {
		vm, onTap := tapOf[f.device]
		owner, guests := macOf[string(f.from)]
		inside, claims := macOf[string(f.sender())]
		var why string
		switch {
		case bytes.Equal(f.from, template) || bytes.Contains(f.data, template):
			why = "has the template's address"
		case onTap && !f.out && f.from.String() != vm.Runtime.MAC:
			why = "is not from the guest " + vm.Name + ", but came from it"
		case onTap && guests && owner != f.device:
			why = "is from another guest, on the tap of " + vm.Name
		case onTap && !f.out && f.protocol == arp && (!claims || inside != f.device):
			why = "tells another's address, from " + vm.Name
		}
		if onTap && !f.out {
			said[vm.Name]++
		}
		if why != "" && wrong < 10 {
			wrong++
			b.t.Errorf("frame %d of %d, from %s, protocol %04x, out %v: %s", n, len(frames), f.from, f.protocol, f.out, why)
		}
	}
	for _, vm := range vms {
		if said[vm.Name] == 0 {
			b.t.Errorf("%s has said nothing, so nothing is proved of it", vm.Name)
		}
	}
	b.t.Logf("%d frames; from the guests: %v", len(frames), said)
}
