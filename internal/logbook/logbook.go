// Package logbook keeps the output of a command: an append-only file of bytes, and an
// index of when and on which stream each part came. Offsets count from the first byte ever
// written and stay what they are when old output is dropped, because dropping punches a
// hole at the front of the file. It imports durable only; vm uses it.
package logbook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/durable"
)

// Stream is where a part came from.
type Stream byte

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// entrySize is an index entry: time in milliseconds since 1970, length, stream.
const entrySize = 8 + 4 + 4

// block is the unit in which old output is dropped; file systems punch whole pages only.
const block = 1 << 20

// Book is one command's output. Safe for concurrent use; one process writes at a time.
type Book struct {
	limit int64

	// mu protects the following.
	mu      sync.Mutex
	log     *os.File
	index   *os.File
	size    int64
	streams map[Stream]int64
	punched int64
}

// Open opens or makes the two files. A part that a crash left without its index entry is cut off:
// whoever writes asks Written how far each stream had come, and goes on from there.
// limit is how many bytes are kept, in steps of 1 MiB.
func Open(logPath, indexPath string, limit int64) (*Book, error) {
	log, err := os.OpenFile(logPath, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	index, err := os.OpenFile(indexPath, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	b := &Book{limit: limit, log: log, index: index, streams: map[Stream]int64{}}
	if err := b.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open log %s: %w", logPath, err), b.Close())
	}
	return b, nil
}

func (b *Book) recover() error {
	entries, err := readIndex(b.index)
	if err != nil {
		return err
	}
	info, err := b.log.Stat()
	if err != nil {
		return err
	}
	keep := int64(0)
	for _, e := range entries {
		if b.size+e.length > info.Size() {
			break
		}
		b.size += e.length
		b.streams[e.stream] += e.length
		keep += entrySize
	}
	return errors.Join(b.log.Truncate(b.size), b.index.Truncate(keep))
}

// Append adds a part. The log is written before its index entry, so that an entry never
// names bytes that are not there.
func (b *Book) Append(stream Stream, part []byte, at time.Time) error {
	if len(part) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.log.WriteAt(part, b.size); err != nil {
		return err
	}
	end, err := b.index.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := b.index.WriteAt(appendEntry(nil, stream, int64(len(part)), at), end); err != nil {
		return err
	}
	b.size += int64(len(part))
	b.streams[stream] += int64(len(part))
	return b.drop()
}

// drop punches whole blocks off the front, called with mu held.
func (b *Book) drop() error {
	end := (b.size - b.limit) / block * block
	if b.limit <= 0 || end <= b.punched {
		return nil
	}
	if err := Punch(b.log, end); err != nil {
		return err
	}
	b.punched = end
	return b.compact(end)
}

// compact merges the index entries of what has been dropped, so that the index is bounded
// as the log is. Their order no longer matters, their sums do.
func (b *Book) compact(end int64) error {
	entries, err := readIndex(b.index)
	if err != nil {
		return err
	}
	dropped, at := map[Stream]entry{}, int64(0)
	for len(entries) > 0 && at+entries[0].length <= end {
		e := entries[0]
		at += e.length
		e.length += dropped[e.stream].length
		dropped[e.stream] = e
		entries = entries[1:]
	}
	var text []byte
	for _, e := range slices.Concat([]entry{dropped[Stdout], dropped[Stderr]}, entries) {
		for ; e.length > math.MaxUint32; e.length -= math.MaxUint32 {
			text = appendEntry(text, e.stream, math.MaxUint32, e.at)
		}
		if e.length > 0 {
			text = appendEntry(text, e.stream, e.length, e.at)
		}
	}
	if err := durable.WriteFile(b.index.Name(), text, 0o600); err != nil {
		return err
	}
	index, err := os.OpenFile(b.index.Name(), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	old := b.index
	b.index = index
	return old.Close()
}

func appendEntry(text []byte, stream Stream, length int64, at time.Time) []byte {
	text = binary.LittleEndian.AppendUint64(text, uint64(at.UnixMilli()))
	text = binary.LittleEndian.AppendUint32(text, uint32(length))
	return append(text, byte(stream), 0, 0, 0)
}

// Written is how many bytes of a stream have been kept so far.
func (b *Book) Written(stream Stream) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streams[stream]
}

// Close closes the files.
func (b *Book) Close() error { return errors.Join(b.log.Close(), b.index.Close()) }

// Punch gives the bytes of f before end back to the file system; the file's size and all
// offsets stay. end is rounded down to a whole page by the file system.
func Punch(f *os.File, end int64) error {
	if end <= 0 {
		return nil
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, end)
}

// Start is the offset of the first byte that is still there.
func Start(f *os.File) (int64, error) {
	at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but hole, or empty
		return f.Seek(0, io.SeekEnd)
	}
	return at, err
}

type entry struct {
	at     time.Time
	length int64
	stream Stream
}

// readIndex reads all whole entries.
func readIndex(r io.ReaderAt) ([]entry, error) {
	text, err := io.ReadAll(io.NewSectionReader(r, 0, 1<<62))
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(text)/entrySize)
	for ; len(text) >= entrySize; text = text[entrySize:] {
		e := entry{
			at:     time.UnixMilli(int64(binary.LittleEndian.Uint64(text))).UTC(),
			length: int64(binary.LittleEndian.Uint32(text[8:])),
			stream: Stream(text[12]),
		}
		if e.stream != Stdout && e.stream != Stderr {
			return out, nil // a crash left half an entry: what follows means nothing
		}
		out = append(out, e)
	}
	return out, nil
}
