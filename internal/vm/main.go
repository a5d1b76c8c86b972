package vm

import (
	"context"
	"errors"
	"io"
	"sync"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
	"banger/internal/logbook"
)

// mainSession is the name of the main command's session in the guest.
const mainSession = api.MainSession

// mainLogLimit is how much of the main command's output is kept on the host.
const mainLogLimit = 64 << 20

// mainFollower runs at most one follower of a VM's main command.
type mainFollower struct {
	mu      sync.Mutex
	running bool
}

// mainEnd is how a main command ended.
type mainEnd struct {
	exitCode int
	signal   string
	timedOut bool
	err      error
}

// StartMain starts the VM's main command in the guest, where it outlives this call, the daemon, and
// the agent. Its output is kept for Logs, its end for Wait.
func (s *Service) StartMain(ctx context.Context, ref string, spec api.ExecSpec) (api.VM, error) {
	if err := spec.Validate(); err != nil {
		return api.VM{}, err
	}
	vm, l, end, err := s.reach(ctx, ref)
	if err != nil {
		return vm, err
	}
	defer end()
	record, err := s.beginMain(ctx, l, spec.Argv)
	if err != nil {
		return vm, err
	}
	if err := record.book.Close(); err != nil {
		return vm, err
	}
	spec.Stdin = false // nobody is there to type
	start := agentapi.SessionStart{ID: mainSession, Exec: spec, LogLimitBytes: s.SessionLog}
	_, err = l.agent.StartSession(ctx, start)
	if api.CodeOf(err) == api.CodeExists { // that of the VM which this one is a fork of
		if err = l.agent.DeleteSession(ctx, mainSession); err == nil {
			_, err = l.agent.StartSession(ctx, start)
		}
	}
	if err != nil {
		s.endMain(vm.ID, mainEnd{err: err})
		return vm, err
	}
	if vm, err = s.Store.VM(ctx, vm.ID); err != nil {
		return vm, err
	}
	s.followMain(vm, l)
	if err := s.Store.AddEvent(ctx, api.Event{Kind: "session.started", VMID: vm.ID, Name: vm.Name, Data: map[string]string{"session": mainSession}}); err != nil {
		return vm, err
	}
	s.Records.Wake()
	return vm, nil
}

// beginMain records that the main command begins. Environment and standard input are not recorded.
func (s *Service) beginMain(ctx context.Context, l *liveVM, argv []string) (*mainRecord, error) {
	id := l.id
	first := false
	if _, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		first = vm.Main == nil
		if vm.Main != nil && vm.Main.EndedAt == nil {
			return nil, api.Errorf(api.CodeConflict, "the main command of VM %s is still running", vm.Name).WithHint("banger exec %s -- COMMAND", vm.Name)
		}
		vm.Main = &api.MainCommand{Argv: argv, StartedAt: s.Now().UTC()}
		return []api.Event{{Kind: "main.started"}}, nil
	}); err != nil {
		return nil, err
	}
	if !first {
		s.forgetMain(id)
	}
	book, err := s.openBook(id)
	if err == nil && !first {
		// The session of an earlier main command has ended, and must not be taken for this one's.
		if err = l.agent.DeleteSession(ctx, mainSession); api.CodeOf(err) == api.CodeNotFound {
			err = nil
		}
		if err != nil {
			err = errors.Join(err, book.Close())
		}
	}
	if err != nil {
		s.endMain(id, mainEnd{err: err})
		return nil, err
	}
	return &mainRecord{service: s, id: id, book: book}, nil
}

func (s *Service) openBook(id string) (*logbook.Book, error) {
	p := s.Paths.VM(id)
	return logbook.Open(p.MainLog(), p.MainIndex(), mainLogLimit)
}

// endMain records how the main command ended. A VM that is to be removed then goes.
func (s *Service) endMain(id string, end mainEnd) {
	ctx := context.WithoutCancel(s.life.ctx)
	now := s.Now().UTC()
	vm, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		if vm.Main == nil || vm.Main.EndedAt != nil {
			return nil, nil
		}
		data := map[string]string{}
		vm.Main.EndedAt = &now
		if end.err != nil {
			vm.Main.Error = api.AsError(end.err).Message
			data["error"] = vm.Main.Error
		} else {
			vm.Main.ExitCode, vm.Main.Signal, vm.Main.TimedOut = &end.exitCode, end.signal, end.timedOut
			data["exit_code"], data["signal"] = itoa(end.exitCode), end.signal
		}
		return []api.Event{{Kind: "main.ended", Data: data}}, nil
	})
	if err != nil {
		if api.CodeOf(err) != api.CodeNotFound {
			s.Log.Error("cannot record the end of a main command", "vm", id, "error", err)
		}
		return
	}
	if vm.Spec.AutoRemove {
		s.beginDelete(id, func(api.VM) error { return nil }) // the log tells of a failure
	}
}

// followMain copies a detached main command's output to the host until it has ended. A VM whose
// command has no session in the guest (it ran in an exec call that a dead daemon carried) is told so.
func (s *Service) followMain(vm api.VM, l *liveVM) {
	if vm.Main == nil || vm.Main.EndedAt != nil {
		return
	}
	l.main.mu.Lock()
	defer l.main.mu.Unlock()
	if l.main.running {
		return
	}
	l.main.running = true
	s.life.do(func(ctx context.Context) {
		end, err := s.followSession(ctx, l)
		l.main.mu.Lock()
		l.main.running = false
		l.main.mu.Unlock()
		switch {
		case ctx.Err() != nil: // the next daemon goes on
		case err != nil:
			select {
			case <-l.gone: // the VM's own end says what happened
			default:
				s.Log.Warn("lost the main command", "vm", l.id, "error", err)
				s.endMain(l.id, mainEnd{err: err})
			}
		default:
			s.endMain(l.id, end)
		}
	})
}

func (s *Service) followSession(ctx context.Context, l *liveVM) (mainEnd, error) {
	book, err := s.openBook(l.id)
	if err != nil {
		return mainEnd{}, err
	}
	var copying sync.WaitGroup
	var outErr, errErr error
	copying.Go(func() { outErr = s.copySession(ctx, l, book, "stdout", logbook.Stdout) })
	copying.Go(func() { errErr = s.copySession(ctx, l, book, "stderr", logbook.Stderr) })
	copying.Wait()
	if err := errors.Join(outErr, errErr, book.Close()); err != nil {
		return mainEnd{}, err
	}
	session, err := l.agent.Session(ctx, mainSession)
	if err != nil {
		return mainEnd{}, err
	}
	end := mainEnd{exitCode: session.ExitCode, signal: session.Signal, timedOut: session.TimedOut}
	if session.Error != nil && session.Signal == "" {
		end.err = session.Error
	}
	return end, nil
}

// copySession goes on where the book ends. When the stream breaks before the session has ended (the agent
// was started again), it is taken up again.
func (s *Service) copySession(ctx context.Context, l *liveVM, book *logbook.Book, name string, stream logbook.Stream) error {
	for {
		r, _, err := l.agent.SessionLog(ctx, mainSession, name, guest.LogFrom{Offset: book.Written(stream)}, true)
		if err != nil {
			return err
		}
		buf := make([]byte, 32<<10)
		for {
			n, rerr := r.Read(buf)
			if err := book.Append(stream, buf[:n], s.Now()); err != nil {
				return errors.Join(err, r.Close())
			}
			if rerr != nil {
				r.Close()
				if rerr == io.EOF {
					return nil
				}
				break
			}
		}
		if _, err := l.agent.WaitReady(ctx); err != nil {
			return err
		}
	}
}

// forgetMain removes what a VM's earlier main command wrote.
func (s *Service) forgetMain(id string) {
	p := s.Paths.VM(id)
	removeFiles(p.MainLog(), p.MainIndex())
}

// Signal sends a signal to the main command.
func (s *Service) Signal(ctx context.Context, ref string, sig api.VMSignal) error {
	vm, l, end, err := s.reach(ctx, ref)
	if err != nil {
		return err
	}
	defer end()
	if vm.Main == nil || vm.Main.EndedAt != nil {
		return api.Errorf(api.CodeConflict, "VM %s has no main command that runs", vm.Name).WithHint("banger vm kill %s", vm.Name)
	}
	return l.agent.SignalSession(ctx, mainSession, sig.Signal)
}
