package serve

import (
	"sync"
	"time"
)

// typists remembers of each caller, by its key, how much of what it has for the command's standard input the command has
// been given. One that has lost its connection asks, and sends on from there: nothing is typed twice, and nothing is lost.
type typists struct {
	// mu protects the following, and every typist.
	mu  sync.Mutex
	all map[string]*typist
}

// typist is one caller, over as many connections as it takes.
type typist struct {
	of *typists
	// taken counts bytes, and one for each end.
	taken int64
	// known: it has been here before.
	known bool
	// end lets go of the connection that it has, and over is closed when no more comes of that; nil where it has none.
	end  func()
	over chan struct{}
	left time.Time
}

// typistKept is how long one is remembered that has no connection: longer than anybody tries to connect again (the
// command line's reattachTime).
const typistKept = 5 * time.Minute

// come is called before a caller is answered, and leave when nothing of it is given to the command any more. What it has sent
// over another connection has come to its end by then. A caller without a key is nobody's other half.
func (s *typists) come(key string, end func()) *typist {
	if key == "" {
		return &typist{of: s}
	}
	for {
		s.mu.Lock()
		s.forget()
		t := s.all[key]
		if t == nil {
			t = &typist{of: s}
			if s.all == nil {
				s.all = map[string]*typist{}
			}
			s.all[key] = t
		}
		before, over := t.end, t.over
		if before == nil {
			t.end, t.over = end, make(chan struct{})
			s.mu.Unlock()
			return t
		}
		s.mu.Unlock()
		before()
		<-over
	}
}

// forget is called with mu held.
func (s *typists) forget() {
	for key, t := range s.all {
		if t.end == nil && time.Since(t.left) > typistKept {
			delete(s.all, key)
		}
	}
}

func (t *typist) leave() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if t.over != nil {
		close(t.over)
	}
	t.end, t.over, t.known, t.left = nil, nil, true, time.Now()
}

// offset is how much has been taken, or -1 of somebody who is new here, or has been forgotten.
func (t *typist) offset() int64 {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if !t.known {
		return -1
	}
	return t.taken
}

func (t *typist) took(n int) {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.taken += int64(n)
}
