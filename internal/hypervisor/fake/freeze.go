package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"banger/internal/hypervisor"
)

// status is what can be asked of a VMM at any time. Called with act held.
func (mon *monitor) status() message {
	return message{Standing: mon.standing, Files: maps.Clone(mon.files)}
}

// stand cuts the guest off, or lets it be heard again: what runs in it are processes of this host, which must end with
// the VMM, so they are not really stopped. Called with act held.
func (mon *monitor) stand(still bool) {
	mon.port.hold(still)
	mon.standing = still
}

// answerFreeze writes the files that a real freeze would. Called with act held.
func (mon *monitor) answerFreeze(r request) message {
	stood, begin := mon.standing, time.Now()
	mon.stand(true)
	err := mon.freeze(r)
	if err != nil || r.Freeze.Resume {
		mon.stand(stood)
	}
	if err != nil {
		return message{Error: err.Error()}
	}
	m := mon.status()
	if r.Freeze.Resume {
		m.StoodStill = time.Since(begin)
	}
	return m
}

func (mon *monitor) freeze(r request) (err error) {
	files := maps.Clone(mon.files)
	for serial, path := range r.Freeze.Overlays {
		if _, there := files[serial]; !there {
			return fmt.Errorf("no drive %q", serial)
		}
		if _, err := os.Stat(path); err != nil {
			return err
		}
		files[serial] = path
	}
	b, err := os.ReadFile(stateFile(&mon.spec.Machine))
	if err != nil {
		return err
	}
	f := frozen{Stamp: r.Stamp}
	if err := json.Unmarshal(b, &f.Guest); err != nil {
		return err
	}
	if b, err = json.Marshal(f); err != nil {
		return err
	}
	memory := hypervisor.FrozenPages
	if r.Freeze.Whole {
		memory = hypervisor.FrozenMemory
	}
	var made []string
	defer func() {
		if err != nil {
			for _, path := range made {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for _, name := range []string{hypervisor.FrozenDevice, memory} {
		path := filepath.Join(r.Freeze.Dir, name)
		out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		made = append(made, path)
		_, err = out.Write(b)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
	mon.files = files
	return nil
}
