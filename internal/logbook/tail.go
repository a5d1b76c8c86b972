package logbook

import (
	"io"
	"os"
	"slices"
)

func firstOffset(f *os.File, indexPath string, q Query) (int64, error) {
	start, err := Start(f)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch {
	case q.Offset >= 0:
		return min(max(q.Offset, start), info.Size()), nil
	case q.Tail < 0:
		return start, nil
	}
	if q.Stream != 0 {
		return streamTailOffset(f, indexPath, start, q)
	}
	return tailOffset(f, start, info.Size(), q.Tail)
}

// streamTailOffset is tailOffset for the lines of one stream: it goes by the parts that are that stream's.
func streamTailOffset(f io.ReaderAt, indexPath string, start int64, q Query) (int64, error) {
	index, err := os.Open(indexPath)
	if err != nil {
		return 0, err
	}
	defer index.Close()
	entries, err := readIndex(index)
	if err != nil {
		return 0, err
	}
	end := int64(0)
	for _, e := range entries {
		end += e.length
	}
	lines, last := q.Tail, true // last: nothing of the last line has been seen yet
	if lines == 0 {
		return end, nil
	}
	for _, e := range slices.Backward(entries) {
		begin := max(end-e.length, start)
		if e.stream == q.Stream && begin < end {
			part := make([]byte, end-begin)
			if _, err := f.ReadAt(part, begin); err != nil && err != io.EOF {
				return 0, err
			}
			for i, c := range slices.Backward(part) {
				if c == '\n' && !last {
					if lines--; lines == 0 {
						return begin + int64(i) + 1, nil
					}
				}
				last = false
			}
		}
		if end -= e.length; end <= start {
			break
		}
	}
	return start, nil
}

// tailOffset looks backwards from end for the beginning of the last n lines. An unfinished last line counts.
func tailOffset(f io.ReaderAt, start, end int64, n int) (int64, error) {
	if n == 0 {
		return end, nil
	}
	buf := make([]byte, 64<<10)
	at, last := end, true
	for at > start {
		size := min(int64(len(buf)), at-start)
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && err != io.EOF {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				last = false
				continue
			}
			if last { // the line break that ends the last line
				last = false
				continue
			}
			if n--; n == 0 {
				return at + i + 1, nil
			}
		}
	}
	return start, nil
}
