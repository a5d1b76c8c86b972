package vmm

import (
	"sync"

	"banger/internal/hypervisor"
)

// Events is a channel that never blocks its writer: the reader of a control connection
// must go on reading answers while a consumer of events is slow.
type Events struct {
	out       chan hypervisor.Event
	more      chan struct{}
	abandoned chan struct{}
	once      sync.Once

	mu    sync.Mutex // protects the following
	list  []hypervisor.Event
	ended bool
}

// NewEvents returns an empty queue; Finish or Abandon must be called on it.
func NewEvents() *Events {
	q := &Events{
		out: make(chan hypervisor.Event), more: make(chan struct{}, 1), abandoned: make(chan struct{}),
	}
	go q.pump()
	return q
}

// Out is where the events come out.
func (q *Events) Out() <-chan hypervisor.Event { return q.out }

// Put appends an event; after Finish it does nothing.
func (q *Events) Put(e hypervisor.Event) {
	q.mu.Lock()
	if !q.ended {
		q.list = append(q.list, e)
	}
	q.mu.Unlock()
	q.wake()
}

// Finish closes out once all events are read.
func (q *Events) Finish() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.wake()
}

// Abandon closes out now.
func (q *Events) Abandon() { q.once.Do(func() { close(q.abandoned) }) }

func (q *Events) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *Events) pump() {
	defer close(q.out)
	for {
		q.mu.Lock()
		list, ended := q.list, q.ended
		q.list = nil
		q.mu.Unlock()
		for _, e := range list {
			select {
			case q.out <- e:
			case <-q.abandoned:
				return
			}
		}
		if ended && len(list) == 0 {
			return
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-q.more:
		case <-q.abandoned:
			return
		}
	}
}
