package machine

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// TestBridge: two VMs reach the daemon's DNS and, by NAT, what lies beyond the host; not one
// another, not any other port of the host; and what they forge arrives nowhere. The "beyond" is
// a namespace without a route back, so an answer proves the masquerade (trap 56).
func TestBridge(t *testing.T) {
	t.Parallel()
	needProgram(t, "tcpdump", "busybox")
	b := newBox(t)
	beyond := b.net.uplink()
	web := t.TempDir()
	if err := os.WriteFile(filepath.Join(web, "index.html"), []byte("beyond\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(web, 0o755); err != nil {
		t.Fatal(err)
	}
	beyond.start("busybox", "httpd", "-f", "-p", "80", "-h", web)
	b.net.start("busybox", "httpd", "-f", "-p", "8088", "-h", web)

	b.must("run", "-d", "--name", "one")
	b.must("run", "-d", "--name", "two")
	one, two := b.show("one"), b.show("two")
	gateway := strings.Fields(b.guest("one", "ip route show default"))[2]

	b.sub("each has an address of its own", func(t *testing.T, b *box) {
		if one.Runtime.GuestIP == two.Runtime.GuestIP || one.Runtime.MAC == two.Runtime.MAC {
			t.Errorf("%+v %+v", one.Runtime, two.Runtime)
		}
		for _, vm := range []api.VM{one, two} {
			if !strings.Contains(b.guest(vm.Name, "ip addr show eth0"), vm.Runtime.GuestIP+"/") {
				t.Errorf("%s has another address than the record says", vm.Name)
			}
		}
	})
	b.sub("the daemon's DNS", func(t *testing.T, b *box) {
		for _, name := range []string{"one", "two"} {
			if out := b.guest(name, "nslookup two.vm"); !strings.Contains(out, two.Runtime.GuestIP) {
				t.Errorf("from %s: %s", name, out)
			}
		}
		r := b.banger("exec", "one", "--", "nslookup", "nobody.vm")
		if r.code == 0 {
			t.Errorf("a VM that is not there has an address: %v", r)
		}
	})
	b.sub("beyond the host, by NAT", func(t *testing.T, b *box) {
		for _, name := range []string{"one", "two"} {
			same(t, "page", b.guest(name, "timeout 10 wget -q -O - http://"+uplinkBeyond+"/"), "beyond")
		}
	})
	b.sub("the host reaches its guests", func(t *testing.T, b *box) {
		b.banger("exec", "one", "--", "sh", "-c", "echo hi >/tmp/index.html; httpd -p 8080 -h /tmp")
		b.must("wait", "--for", "port:8080", "--timeout", "3m", "one")
		same(t, "page", b.net.output("curl", "-sf", "-m", "10", "http://"+one.Runtime.GuestIP+":8080/"), "hi\n")
	})
	b.sub("not another port of the host", func(t *testing.T, b *box) {
		for _, host := range []string{gateway, uplinkHere} {
			r := b.banger("exec", "one", "--", "timeout", "3", "wget", "-q", "-O", "-", "http://"+host+":8088/")
			if r.code == 0 {
				t.Errorf("the guest reads from the host's port at %s: %v", host, r)
			}
		}
	})
	b.sub("not one another", func(t *testing.T, b *box) {
		r := b.banger("exec", "two", "--", "timeout", "3", "wget", "-q", "-O", "-", "http://"+one.Runtime.GuestIP+":8080/")
		if r.code == 0 {
			t.Errorf("one guest reads from the other: %v", r)
		}
		if r := b.banger("exec", "two", "--", "ping", "-c", "1", "-W", "2", one.Runtime.GuestIP); r.code == 0 {
			t.Errorf("one guest pings the other: %v", r)
		}
	})
	b.sub("no IPv6", func(t *testing.T, b *box) {
		if r := b.banger("exec", "one", "--", "ping", "-6", "-c", "1", "-W", "2", "ff02::1%eth0"); r.code == 0 && strings.Contains(r.stdout, "bytes from fe80") &&
			!strings.Contains(b.guest("one", "ip -6 addr show eth0"), addressIn(r.stdout)) {
			t.Errorf("somebody else answered by IPv6: %v", r)
		}
	})
	b.sub("forged frames", func(_ *testing.T, b *box) { b.forged(one, two, gateway) })
	b.sub("nothing of a deleted VM is left", func(t *testing.T, b *box) {
		b.must("rm", "-f", "two")
		b.checkGone(two)
		r := b.banger("exec", "one", "--", "nslookup", "two.vm")
		if r.code == 0 {
			t.Errorf("a deleted VM still has a name: %v", r)
		}
		same(t, "the other one still gets out", b.guest("one", "timeout 10 wget -q -O - http://"+uplinkBeyond+"/"), "beyond")
	})
}

// addressIn finds the address in "… bytes from ADDRESS: …".
func addressIn(text string) string {
	_, after, _ := strings.Cut(text, "bytes from ")
	addr, _, _ := strings.Cut(after, ": ")
	return strings.TrimSuffix(addr, "%eth0")
}

// forged sends frames from one guest with a false MAC or a false address and looks at every
// other place where they could arrive; an honest one first shows that the looking works.
func (b *box) forged(one, two api.VM, gateway string) {
	t := b.t
	t.Helper()
	program := filepath.Join(b.dir, "forge")
	build := exec.Command("go", "build", "-o", program, "./forge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.must("cp", program, "one:/tmp/forge")
	bridgeMAC := strings.Fields(b.net.output("cat", "/sys/class/net/lo/address"))[0]
	if out := b.net.output("ip", "-o", "link", "show", "banger0"); out != "" {
		f := strings.Fields(out)
		for i := range f {
			if f[i] == "link/ether" {
				bridgeMAC = f[i+1]
			}
		}
	}
	// Everywhere but on the sender's own tap, where a listener sees a frame before any rule does.
	where := []string{"banger0", "up0"}
	for _, link := range b.net.links() {
		if isTap(b.net.output("ip", "-o", "-d", "link", "show", link)) && link != b.tap(one) {
			where = append(where, link)
		}
	}
	seen := func(word string, args ...string) string {
		files := map[string]string{}
		for _, dev := range where {
			files[dev] = filepath.Join(b.dir, "seen-"+dev+"-"+word)
			out, err := os.Create(files[dev])
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("nsenter", "--net="+b.net.path(), "tcpdump", "-l", "-n", "-A", "-i", dev, "udp port 9")
			cmd.Stdout = out
			ready, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			awaitText(t, ready, "listening on")
		}
		for range 3 {
			b.must(append([]string{"exec", "one", "--", "/tmp/forge"}, args...)...)
		}
		// What was sent later and honestly has passed the same way: the forged ones are not still to come.
		b.must("exec", "one", "--", "/tmp/forge", "eth0", bridgeMAC, one.Runtime.MAC, one.Runtime.GuestIP, uplinkBeyond, "marker"+word)
		eventually(t, "the marker passes", func() bool { return contains(files["up0"], "marker"+word) })
		var at []string
		for dev, file := range files {
			// Listening makes the bridge see even what it passes to nobody; an honest frame to a neighbour is there.
			if word == "neighbour" && dev == "banger0" {
				continue
			}
			if contains(file, "forged"+word) {
				at = append(at, dev)
			}
		}
		return strings.Join(at, " ")
	}
	for _, f := range []struct{ word, dstMAC, srcMAC, srcIP, dstIP string }{
		{"mac", bridgeMAC, "02:00:00:00:00:99", one.Runtime.GuestIP, uplinkBeyond},
		{"othermac", bridgeMAC, two.Runtime.MAC, one.Runtime.GuestIP, uplinkBeyond},
		{"ip", bridgeMAC, one.Runtime.MAC, two.Runtime.GuestIP, uplinkBeyond},
		{"strangeip", bridgeMAC, one.Runtime.MAC, "203.0.113.7", uplinkBeyond},
		{"gateway", two.Runtime.MAC, one.Runtime.MAC, gateway, two.Runtime.GuestIP},
		{"neighbour", two.Runtime.MAC, one.Runtime.MAC, one.Runtime.GuestIP, two.Runtime.GuestIP},
		{"broadcast", net.HardwareAddr{255, 255, 255, 255, 255, 255}.String(), "02:00:00:00:00:99", one.Runtime.GuestIP, "255.255.255.255"},
	} {
		if at := seen(f.word, "eth0", f.dstMAC, f.srcMAC, f.srcIP, f.dstIP, "forged"+f.word); at != "" {
			t.Errorf("a frame from %s %s to %s %s arrived at %s", f.srcMAC, f.srcIP, f.dstMAC, f.dstIP, at)
		}
	}
}

// tap is the network device that carries a VM, as handles.json names it.
func (b *box) tap(vm api.VM) string {
	b.t.Helper()
	text, err := os.ReadFile(b.handles(vm))
	if err != nil {
		b.t.Fatal(err)
	}
	var h struct {
		TapDevice string `json:"tap_device"`
	}
	decode(b.t, string(text), &h)
	return h.TapDevice
}

func isTap(link string) bool {
	return strings.Contains(link, " tun ") || strings.Contains(link, "type tap")
}

func contains(file, word string) bool {
	text, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(text), word)
}

// TestNone: without a network device, everything else still works.
func TestNone(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none")
	same(t, "devices", b.guest("x", "ls /sys/class/net"), "lo")
	same(t, "links on the host", strings.Join(b.net.links(), " "), "lo")
	same(t, "exec", b.guest("x", "echo yes"), "yes")
	file := filepath.Join(b.dir, "file")
	if err := os.WriteFile(file, []byte("through\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	b.must("cp", file, "x:/root/file")
	same(t, "file in the guest", b.guest("x", "cat /root/file; stat -c %a /root/file"), "through\n640")
	b.must("cp", "x:/root/file", filepath.Join(b.dir, "back"))
	same(t, "file and back", contains(filepath.Join(b.dir, "back"), "through"), true)

	b.banger("exec", "x", "--", "sh", "-c", "echo port >/tmp/index.html; httpd -p 127.0.0.1:8080 -h /tmp")
	b.must("wait", "--for", "port:8080", "--timeout", "3m", "x")
	if out := b.must("ports", "x"); !strings.Contains(out, "8080") {
		t.Errorf("ports: %s", out)
	}
	b.forward("x", "18080:8080")
	same(t, "page through port-forward", b.net.output("curl", "-sf", "-m", "10", "http://127.0.0.1:18080/"), "port\n")
}

// forward keeps `banger port-forward` running until the test ends.
func (b *box) forward(vm, ports string) {
	b.t.Helper()
	cmd := b.command(b.t.Context(), filepath.Join(b.bin, "banger"), "port-forward", vm, ports)
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	local, _, _ := strings.Cut(ports, ":")
	eventually(b.t, "port-forward listens", func() bool {
		return strings.Contains(b.net.output("ss", "-Hltn"), ":"+local+" ")
	})
}
