package vm

import (
	"context"
	"log/slog"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest/ssh"
	"banger/internal/host"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
)

// takeTime bounds how long a clone of the pool may take to answer; one that does not is thrown away.
const takeTime = 2 * time.Second

// takes makes clones of the pool users' VMs.
type takes struct {
	host       host.Host
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	queue      *queue
	bringUp    *bringUp
	network    *network.Network
	knownHosts ssh.KnownHosts
	names      *names
	alive      func(id string) (*liveVM, bool)
	log        *slog.Logger
	now        func() time.Time
	// throwAway removes a clone that is good for nothing.
	throwAway func(id string)
	// size is how many clones there should be; with 0 nothing is taken.
	size int
}

// takeFor gives a VM that is to be created and started one of the pool's clones; false where there is none. All that
// it needs is a name, a few random numbers and the time.
func (tk *takes) takeFor(ctx context.Context, want api.VM, request string) (api.VM, *operation.Operation, bool) {
	if tk.size == 0 {
		return want, nil, false
	}
	defer tk.queue.busy()()
	for {
		pooled, ok := tk.claim(ctx, want)
		if !ok {
			return want, nil, false
		}
		var vm api.VM
		op := tk.operations.Start("pool.take", pooled.ID, func(ctx context.Context, op *operation.Operation) (err error) {
			op.SetResult(pooled.ID)
			vm, err = tk.take(ctx, op, pooled, want, request)
			return err
		})
		_, err := op.Wait(context.WithoutCancel(ctx)) // takeTime bounds it
		switch api.CodeOf(err) {
		case "":
			return vm, op, true
		case api.CodeExists: // what is wrong with the request is said where VMs are inserted
			tk.queue.add(pooled)
			return want, nil, false
		}
		tk.log.Warn("a clone of the pool is thrown away", "vm", pooled.ID, "error", err)
		tk.throwAway(pooled.ID)
	}
}

// claim takes a clone out of the pool. Where one is just being made it is waited for, since it will be there before any that
// would be begun now.
func (tk *takes) claim(ctx context.Context, want api.VM) (api.VM, bool) {
	q := tk.queue
	for {
		if vm, ok := q.claim(func(vm api.VM) bool { return serves(vm, want) }); ok {
			return vm, true
		}
		q.mu.Lock()
		m := q.making
		if m == nil || m.wanted || q.ended || !serves(m.vm, want) {
			q.mu.Unlock()
			return want, false
		}
		m.wanted = true
		q.mu.Unlock()
		select {
		case <-m.done:
		case <-ctx.Done():
			return want, false
		}
	}
}

// take makes a claimed clone a user's: the guest first, so that nobody ever sees it half-named, then the record in one
// transaction, then what follows from the record. The code is already_exists where the name or the client id are another's.
func (tk *takes) take(ctx context.Context, op *operation.Operation, pooled, want api.VM, request string) (vm api.VM, err error) {
	unlock, err := tk.locks.Lock(ctx, pooled.ID)
	if err != nil {
		return want, err
	}
	defer unlock()
	if want.Name, err = tk.freeName(ctx, want); err != nil {
		return want, err
	}
	l, alive := tk.alive(pooled.ID)
	if !alive {
		return want, api.Errorf(api.CodeInternal, "its VMM has ended")
	}
	gctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	var clock func(context.Context) error
	var health agentapi.Health
	var files [][]agentapi.File
	if err := op.Step(gctx, "personalise", func(ctx context.Context) error {
		return tk.bringUp.whileItRuns(ctx, l, func(ctx context.Context) error {
			who := tk.bringUp.christening(want.Name)
			who.Git, files = want.Git, tk.bringUp.addFiles(ctx, &who)
			health, clock, err = l.agent.BeginPersonalise(ctx, who)
			return err
		})
	}); err != nil {
		return want, err
	}
	ctx = context.WithoutCancel(ctx)
	set := make(chan error, 1)
	go func() { set <- clock(gctx) }()
	if err := op.Step(ctx, "record", func(ctx context.Context) error {
		vm, err = tk.store.TakeVM(ctx, pooled.ID, request, func(vm *api.VM) []api.Event { return tk.becomes(vm, want) })
		return err
	}); err != nil {
		return want, err
	}
	tk.records.Wake()
	l.policyChanged()
	return vm, op.Step(ctx, "announce", func(ctx context.Context) error {
		for _, err := range []error{
			tk.network.Rename(ctx, guestOf(vm)),
			tk.knownHosts.Pin(hostNames(vm), vm.Runtime.SSHHostKey),
			tk.host.SetOOMScore(l.instance.Process(), oomScore),
			tk.bringUp.putFiles(ctx, l, health, files),
			<-set,
		} {
			if err != nil { // it runs, and is its user's; a restart tries again
				tk.log.Error("cannot complete what was taken from the pool", "vm", vm.ID, "error", err)
			}
		}
		return nil
	})
}

// becomes is the change of the record.
func (tk *takes) becomes(vm *api.VM, want api.VM) []api.Event {
	now := tk.now().UTC()
	vm.Name, vm.ClientID, vm.State, vm.Runtime.DNSName = want.Name, want.ClientID, api.StateRunning, want.Name+".vm"
	vm.Git, vm.Spec, vm.CreatedAt, vm.StartedAt, vm.ReadyAt = want.Git, want.Spec, now, &now, &now
	return []api.Event{{Kind: "vm.started"}, {Kind: "vm.ready"}}
}

// freeName is the name that was asked for, or one that is made up. Whether they are still free is up to the transaction.
func (tk *takes) freeName(ctx context.Context, want api.VM) (string, error) {
	for {
		name := want.Name
		if name == "" {
			name = tk.names.madeUp(nil)
		}
		free, err := tk.store.IsFree(ctx, name, want.ClientID)
		if err != nil || free {
			return name, err
		}
		if want.Name != "" || want.ClientID != "" {
			return name, api.Errorf(api.CodeExists, "the name %q or the client id %q belong to another VM", name, want.ClientID)
		}
	}
}
