package qemu

import (
	"sync"

	"banger/internal/hypervisor"
)

// eventQueue is a channel that never blocks its writer: the control connection's
// reader must go on reading answers while a consumer of events is slow.
type eventQueue struct {
	out       chan hypervisor.Event
	more      chan struct{}
	abandoned chan struct{}
	once      sync.Once

	mu    sync.Mutex // protects the following
	list  []hypervisor.Event
	ended bool
}

func newEventQueue() *eventQueue {
	q := &eventQueue{
		out: make(chan hypervisor.Event), more: make(chan struct{}, 1), abandoned: make(chan struct{}),
	}
	go q.pump()
	return q
}

// put appends an event; after finish it does nothing.
func (q *eventQueue) put(e hypervisor.Event) {
	q.mu.Lock()
	if !q.ended {
		q.list = append(q.list, e)
	}
	q.mu.Unlock()
	q.wake()
}

// finish closes out once all events are read.
func (q *eventQueue) finish() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.wake()
}

// abandon closes out now.
func (q *eventQueue) abandon() { q.once.Do(func() { close(q.abandoned) }) }

func (q *eventQueue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *eventQueue) pump() {
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
