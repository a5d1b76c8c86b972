package agent

import (
	"sync"

	"golang.org/x/sys/unix"
)

// handle is a file that is opened once, in a template before it is frozen, and stays open: opening is much of
// what a clone would do otherwise, all of it for the first time. Safe for concurrent use.
type handle struct {
	path string
	// mu protects the following.
	mu   sync.Mutex
	fd   int
	open bool
}

// get returns the file's descriptor, for writing.
func (h *handle) get() (fd int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.open {
		if h.fd, err = unix.Open(h.path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
			return -1, err
		}
		h.open = true
	}
	return h.fd, nil
}
