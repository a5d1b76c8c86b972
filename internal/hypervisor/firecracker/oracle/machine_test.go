package oracle

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger/internal/host"
	"banger/internal/host/fake"
	"banger/internal/hypervisor/kvm"
)

// jailing is a pretended machine with jails, or without.
type jailing struct {
	*fake.Host
	err error
}

func (j jailing) CanJail(string, string) error { return j.err }

// machine is one on which Firecracker works, and what a test changes about it.
type machine struct {
	flags           string
	device          bool
	binary          []byte // nil: it is not installed
	version, jailer string
	probe           func() (string, error)
	jail, attach    error
}

func good() machine {
	return machine{
		flags: "fpu svm", device: true, binary: program(true, join(refusing, refusing, refusing)), version: "1.16.1", jailer: "1.16.1",
		probe: func() (string, error) { return "Running Firecracker\n" + kvm.Words + "\n", nil },
	}
}

// program is the least that is an ELF file, with or without an interpreter.
func program(static bool, rest []byte) []byte {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 3) // ET_DYN
	le.PutUint16(b[18:], 62)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // the program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 1) // PT_LOAD
	if !static {
		le.PutUint32(b[64:], 3) // PT_INTERP
	}
	return append(b, rest...)
}

func (m machine) oracle(t *testing.T) (*Oracle, *fake.Host) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	h := fake.New()
	if m.binary == nil {
		h.Remove("firecracker", "")
	} else {
		write("firecracker", m.binary)
	}
	if m.jailer == "" {
		h.Remove("jailer", "")
	} else {
		write("jailer", program(true, nil))
	}
	h.Act("firecracker", func(_ context.Context, c host.Command) error {
		if slices.Contains(c.Args, "--version") {
			fmt.Fprintf(c.Stdout, "Firecracker v%s\n\nexiting", m.version)
			return nil
		}
		said, err := m.probe()
		fmt.Fprint(c.Stdout, said)
		return err
	})
	h.Act("jailer", func(_ context.Context, c host.Command) error {
		fmt.Fprintf(c.Stdout, "Jailer v%s\n", m.jailer)
		return nil
	})
	cpuinfo, device := write("cpuinfo", []byte("model name\t: Test CPU\nflags\t\t: "+m.flags+"\n")), filepath.Join(dir, "kvm")
	if m.device {
		write("kvm", nil)
	}
	return New(Options{
		Host: jailing{h, m.jail}, Binary: filepath.Join(dir, "firecracker"), KVM: kvm.At(cpuinfo, device), File: filepath.Join(dir, "firecracker.json"),
		CanAttach: func() error { return m.attach },
	}), h
}
