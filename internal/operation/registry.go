package operation

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"banger/api"
)

// keep is how many operations are remembered; the oldest ended one goes first.
const keep = 1000

// Registry knows all operations of this daemon's life.
type Registry struct {
	now   func() time.Time
	newID func() string
	log   *slog.Logger
	wg    sync.WaitGroup
	// atPoint is called at each point of each operation; never nil.
	atPoint func(point string)

	// mu protects the following.
	mu    sync.Mutex
	byID  map[string]*Operation
	order []string
}

// NewRegistry makes an empty registry. newID must never return the same id twice.
func NewRegistry(now func() time.Time, newID func() string, log *slog.Logger) *Registry {
	return &Registry{now: now, newID: newID, log: log, atPoint: func(string) {}, byID: make(map[string]*Operation)}
}

// AtPoints has fn called, from the operation itself, at the beginning of each step, at what Detail and Reached name, and
// when an operation is done ("end"): "vm.suspend/freeze". Call it before the first Start.
func (r *Registry) AtPoints(fn func(point string)) { r.atPoint = fn }

// Start begins fn in the background. It is not bound to any request: only Cancel ends
// it early. vmID is empty for work that is on no VM.
func (r *Registry) Start(kind, vmID string, fn func(context.Context, *Operation) error) *Operation {
	ctx, cancel := context.WithCancelCause(context.Background())
	id := r.newID()
	o := &Operation{
		registry: r, id: id, kind: kind, vmID: vmID, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{}),
		state: api.Operation{
			ID: id, Kind: kind, VMID: vmID, State: api.OperationRunning, StartedAt: r.now(),
			Steps: []api.OperationStep{}, Warnings: []string{},
		},
	}
	r.mu.Lock()
	r.byID[id] = o
	r.order = append(r.order, id)
	r.forgetOldest()
	r.mu.Unlock()
	r.log.Info("operation begins", "operation", id, "kind", kind, "vm", vmID)
	r.wg.Go(func() { o.run(ctx, fn) })
	return o
}

// Get finds an operation by its id.
func (r *Registry) Get(id string) (*Operation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o, ok := r.byID[id]; ok {
		return o, nil
	}
	return nil, api.Errorf(api.CodeNotFound, "no operation %q", id).WithHint("banger operation list")
}

// List returns all remembered operations, oldest first.
func (r *Registry) List() []api.Operation {
	r.mu.Lock()
	ops := make([]*Operation, 0, len(r.order))
	for _, id := range r.order {
		ops = append(ops, r.byID[id])
	}
	r.mu.Unlock()
	out := make([]api.Operation, 0, len(ops))
	for _, o := range ops {
		out = append(out, o.Snapshot())
	}
	return out
}

// Running finds an operation of a kind on a VM that has not ended.
func (r *Registry) Running(kind, vmID string) (*Operation, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.Backward(r.order) {
		o := r.byID[id]
		if o.kind != kind || o.vmID != vmID {
			continue
		}
		select {
		case <-o.done:
		default:
			return o, true
		}
	}
	return nil, false
}

// CancelStarts cancels the starts of a VM that are under way: its "vm.start" and "vm.restart", and the
// "vm.ready" of a guest that comes up again by itself.
func (r *Registry) CancelStarts(vmID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.byID {
		if o.vmID == vmID && (o.kind == "vm.start" || o.kind == "vm.restart" || o.kind == "vm.ready") {
			o.Cancel()
		}
	}
}

// Close cancels what still runs and waits until it has been undone.
func (r *Registry) Close() {
	r.mu.Lock()
	for _, o := range r.byID {
		o.Cancel()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// forgetOldest is called with mu held.
func (r *Registry) forgetOldest() {
	for i := 0; len(r.order) > keep && i < len(r.order); {
		o := r.byID[r.order[i]]
		select {
		case <-o.done:
			delete(r.byID, r.order[i])
			r.order = append(r.order[:i], r.order[i+1:]...)
		default:
			i++
		}
	}
}

func (r *Registry) ended(o *Operation, err error) {
	s := o.Snapshot()
	attrs := []any{"operation", s.ID, "kind", s.Kind, "vm", s.VMID, "state", s.State, "took", s.EndedAt.Sub(s.StartedAt)}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	r.log.Info("operation ended", attrs...)
}
