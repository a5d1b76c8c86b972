package qmp

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Commands that are begun together are answered one by one.
func TestPipeline(t *testing.T) {
	t.Parallel()
	conn, _ := server(t, func(command, id string) string {
		if command == "set_link" {
			return `{"error": {"class": "DeviceNotFound", "desc": "no net0"}, "id": "` + id + `"}`
		}
		return `{"return": {}, "id": "` + id + `"}`
	})
	c := connect(t, conn, func(Event) {})
	stop, link, cont := c.BeginStop(), c.BeginSetLink("net0", true), c.BeginCont()
	if err := cont.Wait(bounded(t), nil); err != nil {
		t.Error(err)
	}
	if err := link.Wait(bounded(t), nil); err == nil || !strings.Contains(err.Error(), "no net0") {
		t.Errorf("error: %v", err)
	}
	if err := stop.Wait(bounded(t), nil); err != nil {
		t.Error(err)
	}
	if c.Ended() {
		t.Error("ended")
	}
	_ = c.Close()
	if err := c.BeginStop().Wait(bounded(t), nil); err == nil || !c.Ended() {
		t.Errorf("after the end: %v", err)
	}
}

// A descriptor goes with its command.
func TestDescriptor(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "q"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		defer close(got)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(greeting))
		buf, oob := make([]byte, 4096), make([]byte, 256)
		for {
			n, on, _, _, err := conn.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			var r request
			if json.Unmarshal(buf[:n], &r) != nil {
				return
			}
			if r.Execute == "add-fd" {
				got <- descriptor(oob[:on])
			}
			_, _ = conn.Write([]byte(`{"return": {"fdset-id": 7, "fd": 3}, "id": "` + r.ID + `"}` + "\n"))
		}
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, conn, func(Event) {})
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("handed over"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set, err := c.AddFD(bounded(t), f)
	if err != nil || set != 7 {
		t.Errorf("AddFD = %d, %v", set, err)
	}
	if text := <-got; text != "handed over" {
		t.Errorf("the descriptor leads to %q", text)
	}
	other := connect(t, func() net.Conn { conn, _ := server(t, func(_, _ string) string { return "" }); return conn }(), func(Event) {})
	if _, err := other.AddFD(bounded(t), f); err == nil {
		t.Error("a pipe has carried a descriptor")
	}
}

// descriptor reads the file behind the one descriptor in a control message.
func descriptor(oob []byte) string {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return ""
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return ""
	}
	f := os.NewFile(uintptr(fds[0]), "received")
	defer f.Close()
	b, _ := io.ReadAll(f)
	return string(b)
}

// What QEMU says in words is read, or refused.
func TestWords(t *testing.T) {
	t.Parallel()
	said := ""
	// The name of a layer is a description; its file is a node of its own, see FileNode.
	const nodes = `[{"node-name": "f-d0.1", "drv": "file", "file": "/x/root"}, {"node-name": "d0.1", "drv": "qcow2", "file": "json:{\"driver\""}, ` +
		`{"node-name": "f-d1", "drv": "file", "file": "/x/work"}, {"node-name": "d1", "drv": "qcow2", "file": "/x/work"}]`
	conn, _ := server(t, func(command, id string) string {
		b, _ := json.Marshal(said)
		switch command {
		case "query-block":
			b = []byte(said)
		case "query-named-block-nodes":
			b = []byte(nodes)
		}
		return `{"return": ` + string(b) + `, "id": "` + id + `"}`
	})
	c := connect(t, conn, func(Event) {})
	for _, w := range []struct {
		said string
		want uint64
	}{
		{"Host virtual address for 0x0 (microvm.ram) is 0x7f9247e00000\r\n", 0x7f9247e00000},
		{"Memory at address 0x0 is not RAM\r\n", 0},
		{"", 0},
	} {
		said = w.said
		if got, err := c.BeginHostAddress(0).HostAddress(bounded(t)); got != w.want || (err == nil) != (w.want != 0) {
			t.Errorf("%q: %#x, %v", w.said, got, err)
		}
	}
	said = "address-space: memory\r\n    00000000000f0000-00000000000fffff (prio 1, ram): alias isa-bios @pc.bios 0000000000000000-000000000000ffff\r\n    00000000ffff0000-00000000ffffffff (prio 0, ram): pc.bios\r\n"
	if from, to, err := c.Firmware(bounded(t)); err != nil || from != 0xffff0000 || to != 0xffffffff {
		t.Errorf("Firmware = %#x, %#x, %v", from, to, err)
	}
	said = "nothing"
	if _, _, err := c.Firmware(bounded(t)); err == nil {
		t.Error("firmware was found in nothing")
	}
	said = `[{"qdev": "/machine/peripheral/vd0/virtio-backend", "inserted": {"node-name": "d0.1"}}, {"qdev": "/machine/peripheral/vd1/virtio-backend", "inserted": {"node-name": "d1"}}]`
	tops, err := c.Tops(bounded(t))
	if err != nil || len(tops) != 2 || tops["vd0"] != (Top{"d0.1", "/x/root"}) || tops["vd1"] != (Top{"d1", "/x/work"}) {
		t.Errorf("Tops = %v, %v", tops, err)
	}
}
