package vm

import (
	"context"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
	"banger/internal/operation"
)

// introduction is what a guest that is thawed to be another is told as it begins to run.
type introduction struct {
	said  *guest.Introduction
	files [][]agentapi.File // that did not fit in
	sent  bool              // a greeting had room for it
}

// introduction makes one; message is hypervisor.Frozen.First.
func (u *bringUp) introduction(ctx context.Context, id string) (i *introduction, message func() []byte) {
	ctx = context.WithoutCancel(ctx) // who thaws may be done before the guest is reached
	i = &introduction{}
	return i, func() []byte {
		vm, err := u.store.VM(ctx, id)
		if err != nil {
			return nil // it is asked for again, and fails, once the guest has answered
		}
		p, files, err := u.describe(ctx, vm, false)
		if err != nil {
			return nil
		}
		if vm.Runtime.Forking { // it is mounted, and of the size that it is: the source ran a moment ago
			p.WorkDisk = nil
		}
		p.Time = u.now()
		i.said, i.files = u.lag.NewIntroduction(p), files
		words := i.said.Message()
		i.sent = words != nil
		return words
	}
}

// describe says who a guest is, and which files did not fit in with that; known is a guest that is who it was.
func (u *bringUp) describe(ctx context.Context, vm api.VM, known bool) (p agentapi.Personalise, files [][]agentapi.File, err error) {
	if p, err = u.personality(vm); err != nil {
		return p, nil, err
	}
	switch {
	case vm.Runtime.Forking: // what it says of itself is its source's
		p.Thawed = agentapi.ThawedFork
	case known:
		p = u.renewal(vm, p.AuthorizedKeys)
	}
	if isStart(vm, known) {
		files = u.addFiles(ctx, &p)
	}
	return p, files, nil
}

// identified is a guest that knows who it is.
type identified struct {
	health agentapi.Health
	clock  func(context.Context) error // sets its clock once more, if need be
	files  [][]agentapi.File           // it has yet to get
}

// identify tells a guest who it is, unless it has been told.
func (u *bringUp) identify(ctx context.Context, vm api.VM, l *liveVM) (got identified, err error) {
	answer, err := l.instance.Greeted(ctx)
	if err != nil {
		return got, err
	}
	operation.Stage(ctx, "answer")
	known := false
	switch {
	case l.introduction != nil:
		words, err := answer(ctx)
		if words != nil {
			got.health, got.clock, err = l.agent.Introduced(&u.lag, l.introduction.said, words)
			got.files = l.introduction.files
			return got, err
		}
		if ctx.Err() != nil {
			return got, context.Cause(ctx)
		}
		if l.introduction.sent { // its agent is of another version, or has been started again
			u.log.Warn("a guest did not take its introduction, and is told again who it is", "vm", vm.ID, "error", err)
		}
	case !vm.Runtime.Forking:
		health, err := l.agent.Health(ctx)
		if err != nil {
			return got, err
		}
		known = health.Personalised // it was adopted, or goes on from its own frozen memory
	}
	p, files, err := u.describe(ctx, vm, known)
	if err != nil {
		return got, err
	}
	got.files, p.Time = files, u.now()
	got.health, got.clock, err = l.agent.BeginPersonalise(ctx, p)
	return got, err
}
