package tree

import (
	"archive/tar"
	"errors"
	"io"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Small files are made here and filled by another thread, many at a time: on two CPUs a tree of them takes two thirds of
// the time. The order in the stream holds all the same: what the name stands for is settled where the file is made.
const (
	batchBytes = 4 * blockSize
	batchFiles = 64
	batches    = 2
)

// filler is the other thread.
type filler struct {
	u *unpacker
	// batch is being gathered; free are those that it may go on with, full those to be filled.
	batch      *batch
	free, full chan *batch
	done       chan struct{}

	mu  sync.Mutex
	err error
}

// batch is files that were made, and their contents one after the other.
type batch struct {
	files []made
	buf   []byte
	used  int
}

type made struct {
	fd       int
	h        *tar.Header
	contents []byte
}

func newFiller(u *unpacker) *filler {
	f := &filler{u: u, free: make(chan *batch, batches), full: make(chan *batch, batches), done: make(chan struct{})}
	for range batches {
		f.free <- &batch{files: make([]made, 0, batchFiles), buf: make([]byte, batchBytes)}
	}
	go f.run()
	return f
}

// add takes over fd, an empty file, and reads its contents, which are less than a block.
func (f *filler) add(fd int, h *tar.Header, body io.Reader) error {
	if b := f.batch; b != nil && (len(b.files) == batchFiles || int64(len(b.buf)-b.used) < h.Size) {
		f.pass()
	}
	if f.batch == nil {
		f.batch = <-f.free
	}
	b := f.batch
	n, err := io.ReadFull(body, b.buf[b.used:b.used+int(h.Size)])
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	b.files = append(b.files, made{fd, h, b.buf[b.used : b.used+n]})
	b.used += n
	return f.failure()
}

func (f *filler) pass() {
	if f.batch != nil {
		f.full <- f.batch
		f.batch = nil
	}
}

// finish waits until all is filled.
func (f *filler) finish() error {
	f.pass()
	close(f.full)
	<-f.done
	return f.failure()
}

func (f *filler) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *filler) run() {
	defer close(f.done)
	for b := range f.full {
		for _, m := range b.files {
			if err := f.fill(m); err != nil {
				f.mu.Lock()
				if f.err == nil {
					f.err = explain(m.h.Name, err)
				}
				f.mu.Unlock()
			}
		}
		b.files, b.used = b.files[:0], 0
		f.free <- b
	}
}

func (f *filler) fill(m made) error {
	err := writeAt(m.fd, m.contents, 0)
	if err == nil {
		err = f.u.own(m.fd, m.h)
	}
	if err == nil {
		err = futimens(m.fd, m.h)
	}
	return errors.Join(err, unix.Close(m.fd))
}

// futimens is futimens(3), for which x/sys has no name: another file may have the name of this one by now.
func futimens(fd int, h *tar.Header) error {
	t := times(h)
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&t[0])), 0, 0, 0); errno != 0 { //nolint:gosec // as the call has it
		return errno
	}
	return nil
}
