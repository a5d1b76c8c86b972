package firecracker

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/durable"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
)

// note is what a later daemon must know of a thawed guest, and cannot see: which image its memory is relative to, and
// whether it has been let go. It lies beside the console.
type note struct {
	// Process is whom it is about: after a reboot it is about nobody.
	Process host.Process   `json:"process"`
	Image   memory.ImageID `json:"image"`
	Ran     bool           `json:"ran"`
}

func noteFile(m *hypervisor.Machine) string { return filepath.Join(m.Dir, "thawed") }

func (i *instance) write(n note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return durable.ReplaceFile(noteFile(&i.m), b, 0o600)
}

// readNote is nil without error for a guest that was booted.
func (i *instance) readNote(p host.Process) (*note, error) {
	b, err := os.ReadFile(noteFile(&i.m))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var n note
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil || n.Process != p {
		return nil, err
	}
	return &n, nil
}
