package vm

import (
	"context"
	"encoding/base64"
	"io"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/guest"
)

// ExecStream is an exec call that has been let in.
type ExecStream struct {
	mains *mains
	vm    api.VM
	live  *liveVM
	end   func()
}

// OpenExec refuses what can be refused before the caller's connection is upgraded. The caller closes the stream.
func (g *Guests) OpenExec(ctx context.Context, ref string) (*ExecStream, error) {
	vm, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &ExecStream{g.mains, vm, l, end}, nil
}

// Close lets the VM idle again.
func (e *ExecStream) Close() { e.end() }

// Proxy carries frames between the caller and the guest until the command has ended or the caller has gone,
// which cancels it. The VM's main command is recorded on the way.
func (e *ExecStream) Proxy(ctx context.Context, client io.ReadWriteCloser) error {
	var record *mainRecord
	return e.live.agent.Proxy(ctx, client, guest.Hooks{
		Start: func(spec *api.ExecSpec) error {
			if err := spec.Validate(); err != nil || !spec.Main {
				return err
			}
			var err error
			record, err = e.mains.begin(ctx, e.live, spec.Argv)
			return err
		},
		Why:    e.live.why,
		Output: func(ch frame.Channel, p []byte) { record.output(ch, p) },
		// The end is recorded before the caller learns of it, so that it finds the record as it should be.
		End: func(exit api.Control, err error) {
			if err != nil {
				record.finish(mainEnd{err: err})
				return
			}
			record.finish(mainEnd{exitCode: exit.ExitCode, signal: exit.Signal, timedOut: exit.TimedOut})
		},
	})
}

// ExecWait runs a command, waits for it, and answers with what it wrote.
func (g *Guests) ExecWait(ctx context.Context, ref string, spec api.ExecSpec) (api.ExecResult, error) {
	if err := spec.Validate(); err != nil {
		return api.ExecResult{}, err
	}
	if spec.TTY {
		return api.ExecResult{}, api.Errorf(api.CodeInvalid, "a call that waits has no terminal")
	}
	_, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return api.ExecResult{}, err
	}
	defer end()
	var record *mainRecord
	if spec.Main {
		if record, err = g.mains.begin(ctx, l, spec.Argv); err != nil {
			return api.ExecResult{}, err
		}
	}
	result, err := l.agent.ExecWait(ctx, spec)
	if err != nil {
		err = l.why(err)
		record.finish(mainEnd{err: err})
		return result, err
	}
	record.output(frame.Stdout, plain(result.Stdout, result.StdoutBase64))
	record.output(frame.Stderr, plain(result.Stderr, result.StderrBase64))
	record.finish(mainEnd{exitCode: result.ExitCode, signal: result.Signal, timedOut: result.TimedOut})
	return result, nil
}

// plain is the bytes of a result's stream, whichever of its two fields holds them.
func plain(text, b64 string) []byte {
	if b64 == "" {
		return []byte(text)
	}
	bytes, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return []byte(b64)
	}
	return bytes
}

// StartMain starts the VM's main command in the guest, where it outlives this call, the daemon, and
// the agent. Its output is kept for Logs, its end for Wait.
func (g *Guests) StartMain(ctx context.Context, ref string, spec api.ExecSpec) (api.VM, error) {
	if err := spec.Validate(); err != nil {
		return api.VM{}, err
	}
	vm, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return vm, err
	}
	defer end()
	record, err := g.mains.begin(ctx, l, spec.Argv)
	if err != nil {
		return vm, err
	}
	if err := record.book.Close(); err != nil {
		return vm, err
	}
	spec.Stdin = false // nobody is there to type
	start := agentapi.SessionStart{ID: mainSession, Exec: spec, LogLimitBytes: g.sessionLog}
	_, err = l.agent.StartSession(ctx, start)
	if api.CodeOf(err) == api.CodeExists { // that of the VM which this one is a fork of
		if err = l.agent.DeleteSession(ctx, mainSession); err == nil {
			_, err = l.agent.StartSession(ctx, start)
		}
	}
	if err != nil {
		g.mains.ended(vm.ID, mainEnd{err: err})
		return vm, err
	}
	if vm, err = g.store.VM(ctx, vm.ID); err != nil {
		return vm, err
	}
	g.mains.follow(vm, l)
	if err := g.store.AddEvent(ctx, api.Event{Kind: "session.started", VMID: vm.ID, Name: vm.Name, Data: map[string]string{"session": mainSession}}); err != nil {
		return vm, err
	}
	g.records.Wake()
	return vm, nil
}

// Signal sends a signal to the main command.
func (g *Guests) Signal(ctx context.Context, ref string, sig api.VMSignal) error {
	vm, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return err
	}
	defer end()
	if vm.Main == nil || vm.Main.EndedAt != nil {
		return api.Errorf(api.CodeConflict, "VM %s has no main command that runs", vm.Name).WithHint("banger vm kill %s", vm.Name)
	}
	return l.agent.SignalSession(ctx, mainSession, sig.Signal)
}
