package wire

// window is how many bytes may have been sent and not be known to have been read, in each direction. With a
// round trip of a millisecond that is 500 MB/s.
const window = 512 << 10

// ring holds up to window bytes, and takes memory as it needs it.
type ring struct {
	b  []byte
	at int // of the first byte
	n  int
}

const ringAtFirst = 32 << 10

func (r *ring) room() int { return window - r.n }

// add takes p, for which there is room.
func (r *ring) add(p []byte) {
	if len(p) == 0 {
		return
	}
	if need := r.n + len(p); need > len(r.b) {
		size := max(len(r.b), ringAtFirst)
		for size < need {
			size *= 2
		}
		b := make([]byte, size)
		r.copyOut(b[:r.n], 0)
		r.b, r.at = b, 0
	}
	end := (r.at + r.n) % len(r.b)
	n := copy(r.b[end:], p)
	copy(r.b, p[n:])
	r.n += len(p)
}

// copyOut fills p with what is from the byte on that is numbered from, the first being 0.
func (r *ring) copyOut(p []byte, from int) {
	if len(p) == 0 {
		return
	}
	begin := (r.at + from) % len(r.b)
	n := copy(p, r.b[begin:])
	copy(p[n:], r.b)
}

// drop forgets the first n bytes, and the memory of one that is empty.
func (r *ring) drop(n int) {
	r.n -= n
	switch {
	case r.n > 0:
		r.at = (r.at + n) % len(r.b)
	case len(r.b) > ringAtFirst:
		*r = ring{}
	default:
		r.at = 0
	}
}
