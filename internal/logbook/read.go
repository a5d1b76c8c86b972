package logbook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Query says which part of a log to read.
type Query struct {
	// Offset is where to begin; -1 means at the first byte kept, or where Tail says.
	Offset int64
	// Tail begins that many lines before the end; -1 means all. Only with Offset -1.
	Tail int
	// Stream leaves out the other one; 0 means both. Needs the index.
	Stream Stream
	// Timestamps puts the RFC 3339 time and a space before each line. Needs the index.
	Timestamps bool
	// More, if not nil, makes the reader wait at the end until the log grows; it ends when More is
	// closed and all has been read.
	More <-chan struct{}
}

// Read opens a log for reading and returns the offset of the first byte that it gives.
// indexPath may be empty for a file without an index (the console).
func Read(ctx context.Context, logPath, indexPath string, q Query) (io.ReadCloser, int64, error) {
	f, err := os.OpenFile(logPath, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	start, err := firstOffset(f, indexPath, q)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	pr, pw := io.Pipe()
	r := &reader{file: f, index: indexPath, query: q, at: start, out: pw}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		err := r.run(ctx)
		pw.CloseWithError(errors.Join(err, f.Close()))
	}()
	return &readCloser{pr, cancel}, start, nil
}

type readCloser struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (r *readCloser) Close() error {
	r.cancel()
	return r.PipeReader.Close()
}

type reader struct {
	file  *os.File
	index string
	query Query
	at    int64
	out   *io.PipeWriter
	// midLine is true while a line without its end has been written, per stream together.
	midLine bool
}

func (r *reader) run(ctx context.Context) error {
	var grown *watch
	if r.query.More != nil {
		var err error
		watched := []string{r.file.Name()}
		if r.byIndex() { // it is written after the log, and the last to tell of it
			watched = append(watched, r.index)
		}
		if grown, err = newWatch(watched...); err != nil {
			return err
		}
		defer grown.Close()
	}
	for {
		ended := false
		if r.query.More != nil {
			select {
			case <-r.query.More:
				ended = true // looked at before reading, so that nothing written until then is missed
			default:
			}
		}
		if err := r.copyNew(); err != nil {
			return err
		}
		if r.query.More == nil || ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.query.More:
		case <-grown.Changed():
		}
	}
}

// byIndex tells whether the index must be read to know what to copy.
func (r *reader) byIndex() bool {
	return r.index != "" && (r.query.Timestamps || r.query.Stream != 0)
}

// copyNew writes all from r.at to the present end.
func (r *reader) copyNew() error {
	if !r.byIndex() {
		info, err := r.file.Stat()
		if err != nil {
			return err
		}
		n, err := io.Copy(r.out, io.NewSectionReader(r.file, r.at, info.Size()-r.at))
		r.at += n
		return err
	}
	index, err := os.Open(r.index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the VM has been deleted under its reader
	} else if err != nil {
		return err
	}
	defer index.Close()
	entries, err := readIndex(index)
	if err != nil {
		return err
	}
	begin := int64(0)
	for _, e := range entries {
		end := begin + e.length
		if end > r.at {
			part := make([]byte, end-max(begin, r.at))
			if _, err := r.file.ReadAt(part, max(begin, r.at)); err != nil {
				return err
			}
			r.at = end
			if r.query.Stream == 0 || r.query.Stream == e.stream {
				if err := r.write(part, e.at); err != nil {
					return err
				}
			}
		}
		begin = end
	}
	return nil
}

func (r *reader) write(part []byte, at time.Time) error {
	if !r.query.Timestamps {
		_, err := r.out.Write(part)
		return err
	}
	stamp := []byte(at.Format("2006-01-02T15:04:05.000Z07:00") + " ")
	for line := range bytes.Lines(part) {
		if !r.midLine {
			if _, err := r.out.Write(stamp); err != nil {
				return err
			}
		}
		if _, err := r.out.Write(line); err != nil {
			return err
		}
		r.midLine = !bytes.HasSuffix(line, []byte("\n"))
	}
	return nil
}
