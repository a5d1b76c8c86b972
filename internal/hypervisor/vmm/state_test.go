package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger/api"
	"banger/internal/hypervisor"
)

// testHead is a head as QEMU's is.
type testHead struct {
	StateHead
	FirmwareAt uint64 `json:"firmware_at"`
	Firmware   []byte `json:"firmware"`
}

func TestState(t *testing.T) {
	t.Parallel()
	head := testHead{StateHead: StateHead{Stamp: hypervisor.Stamp{{Name: "version", Value: "7"}}, Whole: true}, FirmwareAt: 0xffff0000, Firmware: []byte{0, 1, 2}}
	stream := []byte("\x00QEVM\x00\x00 and so on")
	good, err := EncodeState(head, stream)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "device")
	read := func(b []byte) (got testHead, stream []byte, err error) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		stream, err = ReadState(path, &got)
		return got, stream, err
	}
	got, gotStream, err := read(good)
	if err != nil || !bytes.Equal(gotStream, stream) || !got.Whole || got.FirmwareAt != head.FirmwareAt || !bytes.Equal(got.Firmware, head.Firmware) || !slices.Equal(got.Stamp, head.Stamp) {
		t.Errorf("%+v, %v", got, err)
	}
	for at := range good {
		b := bytes.Clone(good)
		b[at] ^= 0x10
		if _, _, err := read(b); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("byte %d changed: %v", at, err)
		}
		if _, _, err := read(good[:at]); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
	if _, err := ReadState(path+".none", &testHead{}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("no file: %v", err)
	}
}

func FuzzState(f *testing.F) {
	b, err := EncodeState(testHead{}, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ParseState(b, &testHead{}) })
}
