package vm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/frame"
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

// mains keeps what is known on the host of VMs' main commands: that they run, what they write, how they ended.
type mains struct {
	records *Records
	life    *background
	paths   config.Paths
	log     *slog.Logger
	now     func() time.Time
	// remove begins to remove a VM whose command has ended, and which is to go with that.
	remove func(id string)
}

// begin records that the main command begins. Environment and standard input are not recorded.
func (m *mains) begin(ctx context.Context, l *liveVM, argv []string) (*mainRecord, error) {
	id := l.id
	first := false
	if _, err := m.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		first = vm.Main == nil
		if vm.Main != nil && vm.Main.EndedAt == nil {
			return nil, api.Errorf(api.CodeConflict, "the main command of VM %s is still running", vm.Name).WithHint("banger exec %s -- COMMAND", vm.Name)
		}
		vm.Main = &api.MainCommand{Argv: argv, StartedAt: m.now().UTC()}
		return []api.Event{{Kind: "main.started"}}, nil
	}); err != nil {
		return nil, err
	}
	if !first {
		m.forget(id)
	}
	book, err := m.openBook(id)
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
		m.ended(id, mainEnd{err: err})
		return nil, err
	}
	return &mainRecord{mains: m, id: id, book: book}, nil
}

func (m *mains) openBook(id string) (*logbook.Book, error) {
	p := m.paths.VM(id)
	return logbook.Open(p.MainLog(), p.MainIndex(), mainLogLimit)
}

// ended records how the main command ended. A VM that is to be removed then goes.
func (m *mains) ended(id string, end mainEnd) {
	ctx := context.WithoutCancel(m.life.ctx)
	now := m.now().UTC()
	vm, err := m.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
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
			m.log.Error("cannot record the end of a main command", "vm", id, "error", err)
		}
		return
	}
	if vm.Spec.AutoRemove {
		m.remove(id) // the log tells of a failure
	}
}

// follow copies a detached main command's output to the host until it has ended. A VM whose
// command has no session in the guest (it ran in an exec call that a dead daemon carried) is told so.
func (m *mains) follow(vm api.VM, l *liveVM) {
	if vm.Main == nil || vm.Main.EndedAt != nil {
		return
	}
	l.main.mu.Lock()
	defer l.main.mu.Unlock()
	if l.main.running {
		return
	}
	l.main.running = true
	m.life.do(func(ctx context.Context) {
		end, err := m.followSession(ctx, l)
		l.main.mu.Lock()
		l.main.running = false
		l.main.mu.Unlock()
		switch {
		case ctx.Err() != nil: // the next daemon goes on
		case err != nil:
			select {
			case <-l.gone: // the VM's own end says what happened
			default:
				m.log.Warn("lost the main command", "vm", l.id, "error", err)
				m.ended(l.id, mainEnd{err: err})
			}
		default:
			m.ended(l.id, end)
		}
	})
}

func (m *mains) followSession(ctx context.Context, l *liveVM) (mainEnd, error) {
	book, err := m.openBook(l.id)
	if err != nil {
		return mainEnd{}, err
	}
	var copying sync.WaitGroup
	var outErr, errErr error
	copying.Go(func() { outErr = m.copySession(ctx, l, book, "stdout", logbook.Stdout) })
	copying.Go(func() { errErr = m.copySession(ctx, l, book, "stderr", logbook.Stderr) })
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
func (m *mains) copySession(ctx context.Context, l *liveVM, book *logbook.Book, name string, stream logbook.Stream) error {
	for {
		r, _, err := l.agent.SessionLog(ctx, mainSession, name, guest.LogFrom{Offset: book.Written(stream)}, true)
		if err != nil {
			return err
		}
		buf := make([]byte, 32<<10)
		for {
			n, rerr := r.Read(buf)
			if err := book.Append(stream, buf[:n], m.now()); err != nil {
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

// forget removes what a VM's earlier main command wrote.
func (m *mains) forget(id string) {
	p := m.paths.VM(id)
	removeFiles(p.MainLog(), p.MainIndex())
}

// mainRecord keeps the main command's output and end while it runs in an exec call. A nil one keeps nothing.
type mainRecord struct {
	mains *mains
	id    string
	book  *logbook.Book
}

func (r *mainRecord) output(ch frame.Channel, p []byte) {
	if r == nil {
		return
	}
	stream := logbook.Stdout
	if ch == frame.Stderr {
		stream = logbook.Stderr
	}
	if err := r.book.Append(stream, p, r.mains.now()); err != nil {
		r.mains.log.Error("cannot keep output", "vm", r.id, "error", err)
	}
}

func (r *mainRecord) finish(end mainEnd) {
	if r == nil {
		return
	}
	if err := r.book.Close(); err != nil {
		r.mains.log.Error("cannot close a log", "vm", r.id, "error", err)
	}
	r.mains.ended(r.id, end)
}
