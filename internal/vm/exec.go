package vm

import (
	"context"
	"encoding/base64"
	"io"

	"banger/api"
	"banger/internal/frame"
	"banger/internal/guest"
	"banger/internal/logbook"
)

// ExecStream is an exec call that has been let in.
type ExecStream struct {
	service *Service
	vm      api.VM
	live    *liveVM
	end     func()
}

// OpenExec refuses what can be refused before the caller's connection is upgraded. The caller closes the stream.
func (s *Service) OpenExec(ctx context.Context, ref string) (*ExecStream, error) {
	vm, l, end, err := s.reach(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &ExecStream{s, vm, l, end}, nil
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
			record, err = e.service.beginMain(ctx, e.live, spec.Argv)
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
func (s *Service) ExecWait(ctx context.Context, ref string, spec api.ExecSpec) (api.ExecResult, error) {
	if err := spec.Validate(); err != nil {
		return api.ExecResult{}, err
	}
	if spec.TTY {
		return api.ExecResult{}, api.Errorf(api.CodeInvalid, "a call that waits has no terminal")
	}
	_, l, end, err := s.reach(ctx, ref)
	if err != nil {
		return api.ExecResult{}, err
	}
	defer end()
	var record *mainRecord
	if spec.Main {
		if record, err = s.beginMain(ctx, l, spec.Argv); err != nil {
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

// mainRecord keeps the main command's output and end while it runs in an exec call. A nil one keeps nothing.
type mainRecord struct {
	service *Service
	id      string
	book    *logbook.Book
}

func (r *mainRecord) output(ch frame.Channel, p []byte) {
	if r == nil {
		return
	}
	stream := logbook.Stdout
	if ch == frame.Stderr {
		stream = logbook.Stderr
	}
	if err := r.book.Append(stream, p, r.service.Now()); err != nil {
		r.service.Log.Error("cannot keep output", "vm", r.id, "error", err)
	}
}

func (r *mainRecord) finish(end mainEnd) {
	if r == nil {
		return
	}
	if err := r.book.Close(); err != nil {
		r.service.Log.Error("cannot close a log", "vm", r.id, "error", err)
	}
	r.service.endMain(r.id, end)
}
