package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// unpackTar takes a whole tar stream, compressed or not. progress gets the bytes of r read so far.
func (s *Service) unpackTar(ctx context.Context, u *unpacker, r io.Reader, progress func(int64)) error {
	plain, done, err := s.decompress(ctx, &counter{ctx: ctx, r: r, report: progress})
	if err != nil {
		return err
	}
	err = readTar(u, plain)
	if end := done(); end != nil && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) {
		err = end // the decompressor knows better why the stream is broken
	}
	return err
}

func readTar(u *unpacker, r io.Reader) error {
	end := &ending{r: r}
	t := tar.NewReader(end)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if err := drain(end); err != nil {
				return err
			}
			return end.check()
		}
		if err != nil {
			return api.Errorf(api.CodeInvalid, "not a whole tar archive: %w", err)
		}
		if err := u.add(h, t); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return api.Errorf(api.CodeInvalid, "the archive is cut off: %w", err)
			}
			return err
		}
	}
}

// drain reads to the end, so that a damaged compressed stream is noticed (trap 44).
func drain(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return api.Errorf(api.CodeInvalid, "the archive is damaged: %w", err)
	}
	return nil
}

// ending remembers whether a stream ends in zeros, as every whole tar does. Package tar takes one
// that was cut off between two entries as whole.
type ending struct {
	r     io.Reader
	zeros int64 // at the end of what was read so far
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if tail := bytes.TrimRight(p[:n], "\x00"); len(tail) > 0 {
		e.zeros = 0
		p = p[len(tail):n]
	} else {
		p = p[:n]
	}
	e.zeros += int64(len(p))
	return n, err
}

func (e *ending) check() error {
	const block = 512
	if e.zeros < block {
		return api.Errorf(api.CodeInvalid, "the archive is cut off: it has no end")
	}
	return nil
}

// decompress looks at the first bytes. done must be called when the stream has been read
// or given up; its error is the decompressor's.
func (s *Service) decompress(ctx context.Context, r io.Reader) (plain io.Reader, done func() error, err error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	none := func() error { return nil }
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, api.Errorf(api.CodeInvalid, "not a whole gzip file: %w", err)
		}
		return z, none, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(b), none, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return s.filter(ctx, "xz", b)
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return s.filter(ctx, "zstd", b)
	}
	return b, none, nil
}

// filter runs a decompressor beside us.
func (s *Service) filter(ctx context.Context, program string, r io.Reader) (io.Reader, func() error, error) {
	path, err := s.Host.LookPath(program)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	var failure error // once ended is closed
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failure = s.Host.Run(ctx, host.Command{Path: path, Args: []string{"-d", "-c"}, Stdin: r, Stdout: pw})
		_ = pw.CloseWithError(failure) // never fails
	}()
	finished := false
	return readerFunc(func(p []byte) (int, error) {
			n, err := pr.Read(p)
			finished = finished || errors.Is(err, io.EOF)
			return n, err
		}), func() error {
			if !finished {
				// Given up half-way: what the program says of its closed pipe is no news.
				cancel()
				err := pr.Close()
				<-ended
				return err
			}
			defer cancel()
			if <-ended; failure != nil {
				return api.Errorf(api.CodeInvalid, "the archive is damaged: %w", failure)
			}
			return nil
		}, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// counter reports how far it has been read, and ends with its context.
type counter struct {
	ctx    context.Context
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	before := c.n >> 22
	c.n += int64(n)
	if c.n>>22 != before && c.report != nil { // every 4 MiB
		c.report(c.n)
	}
	return n, err
}

// unpackDir takes a directory tree, and puts it below prefix. Sockets are left out. A name that changes while we
// read is an error, not a torn image.
func unpackDir(ctx context.Context, u *unpacker, root *os.Root, prefix string, progress func(int64)) error {
	first := map[[2]uint64]string{} // device and inode of a file with several names → the first name
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := headerOf(root, name)
		if h == nil || err != nil {
			return err
		}
		info, _ := d.Info()
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && h.Typeflag == tar.TypeReg {
			key := [2]uint64{st.Dev, st.Ino}
			if earlier, ok := first[key]; ok {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, earlier, 0
			} else {
				first[key] = path.Join(prefix, name)
			}
		}
		h.Name = path.Join(prefix, name)
		if h.Typeflag != tar.TypeReg {
			return u.add(h, nil)
		}
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		buf := make([]byte, 64)
		if n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", buf); err == nil {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(buf[:n])}
		}
		if err := u.add(h, f); err != nil {
			return err
		}
		progress(u.bytes)
		return nil
	})
}

// headerOf describes a file for add; nil for one that is left out.
func headerOf(root *os.Root, name string) (*tar.Header, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	target := ""
	switch {
	case info.Mode()&fs.ModeSocket != 0:
		return nil, nil
	case info.Mode()&fs.ModeSymlink != 0:
		if target, err = root.Readlink(name); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, err)
	}
	return h, nil
}
