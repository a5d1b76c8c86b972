package session

import (
	"context"
	"io"
	"slices"
	"time"

	"banger/api"
	"banger/internal/guest"
)

// Stream is a conversation with a session: attach or send. It is a use of the VM until Close.
type Stream struct {
	at
	stream *guest.SessionStream
	// StdoutOffset and StderrOffset tell from where on an attach sends.
	StdoutOffset, StderrOffset int64
	// StdinOffset is what api.StdinOffsetHeader says.
	StdinOffset int64
}

// Close lets go of the session, which goes on.
func (s *Stream) Close() {
	_ = s.stream.Close() // nothing is lost by it
	s.at.Close()
}

// Relay passes the frames between a client and the session until either ends.
func (s *Stream) Relay(ctx context.Context, client io.ReadWriter) error {
	return s.stream.Relay(ctx, client, s.Why)
}

// Attach becomes the one who is attached to a session.
func (s *Service) Attach(ctx context.Context, ref, name string, attach api.SessionAttach) (*Stream, error) {
	a, err := s.reach(ctx, ref, name)
	if err != nil {
		return nil, err
	}
	stream, err := a.Agent.AttachSession(ctx, a.session.ID, attach)
	if err != nil {
		defer a.Close()
		return nil, s.refused(ctx, a, doAttach, err)
	}
	return &Stream{at: a, stream: stream, StdoutOffset: stream.Stdout, StderrOffset: stream.Stderr, StdinOffset: stream.Stdin}, nil
}

// Send opens a session's standard input; see api.SessionAttach for the key.
func (s *Service) Send(ctx context.Context, ref, name, key string) (*Stream, error) {
	a, err := s.reach(ctx, ref, name)
	if err != nil {
		return nil, err
	}
	stream, err := a.Agent.SendSession(ctx, a.session.ID, key)
	if err != nil {
		defer a.Close()
		return nil, s.refused(ctx, a, doSend, err)
	}
	return &Stream{at: a, stream: stream, StdinOffset: stream.Stdin}, nil
}

// Stop asks a session's command to end.
func (s *Service) Stop(ctx context.Context, ref, name string) (api.Session, error) {
	a, err := s.reach(ctx, ref, name)
	if err != nil {
		return api.Session{}, err
	}
	defer a.Close()
	raw, err := a.Agent.StopSession(ctx, a.session.ID)
	if err != nil {
		return api.Session{}, s.refused(ctx, a, doSignal, err)
	}
	return s.heardOf(ctx, a.VM, raw)
}

// Signal sends a signal to a session's process group; KILL is for all that its command has started.
func (s *Service) Signal(ctx context.Context, ref, name string, sig api.VMSignal) error {
	a, err := s.reach(ctx, ref, name)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.Agent.SignalSession(ctx, a.session.ID, sig.Signal); err != nil {
		return s.refused(ctx, a, doSignal, err)
	}
	return nil
}

// Delete forgets a session that has ended, and its logs.
func (s *Service) Delete(ctx context.Context, ref, name string) (api.Session, error) {
	a, err := s.reach(ctx, ref, name)
	if err != nil {
		return api.Session{}, err
	}
	defer a.Close()
	if err := a.Agent.DeleteSession(ctx, a.session.ID); err != nil {
		return api.Session{}, s.refused(ctx, a, doDelete, err)
	}
	err = s.Store.UpdateSessions(ctx, a.VM.ID, func(_ api.VM, have []api.Session) ([]api.Session, []api.Event, error) {
		left := slices.DeleteFunc(have, func(r api.Session) bool { return r.ID == a.session.ID })
		return left, []api.Event{{Kind: "session.deleted", Data: map[string]string{"session": a.session.Name}}}, nil
	})
	s.Wake()
	return a.session, err
}

// LogQuery says which part of a session's output to read.
type LogQuery struct {
	// Stream is stdout or stderr.
	Stream string
	// Offset is where to begin, in bytes from the first one ever written; Tail, if not nil, so many lines before the end.
	Offset int64
	Tail   *int
	// Follow goes on until the session has ended.
	Follow bool
}

// Logs reads a stream of a session; offset is that of the first byte read.
func (s *Service) Logs(ctx context.Context, ref, name string, q LogQuery) (r io.ReadCloser, offset int64, err error) {
	a, err := s.reach(ctx, ref, name)
	if err != nil {
		return nil, 0, err
	}
	r, offset, err = a.Agent.SessionLog(ctx, a.session.ID, q.Stream, guest.LogFrom{Offset: q.Offset, Tail: q.Tail}, q.Follow)
	if err != nil {
		defer a.Close()
		return nil, 0, s.refused(ctx, a, "", err)
	}
	return endOnClose{r, a.Close}, offset, nil
}

type endOnClose struct {
	io.ReadCloser
	end func()
}

func (c endOnClose) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}

// againEvery is how often a guest is asked again whose agent has gone: it tells nobody when it is back.
const againEvery = 500 * time.Millisecond

// Wait returns when a session has ended: by itself, or with its VM.
func (s *Service) Wait(ctx context.Context, ref, name string) (api.Session, error) {
	session, err := s.Get(ctx, ref, name)
	if err != nil || session.Ended() {
		return session, err
	}
	for {
		session, err = s.waitOnce(ctx, session)
		if err == nil || api.CodeOf(err) != api.CodeNotReady {
			return session, err
		}
		// The agent was started again, or the guest was: what is so is in the records by then.
		if vm, err := s.VM(ctx, session.VMID); err != nil {
			return session, err
		} else if now, err := s.get(ctx, vm, session.ID); err != nil || now.Ended() {
			return now, err
		}
		select {
		case <-ctx.Done():
			return session, notInTime(session)
		case <-s.life.Done():
			return session, api.Errorf(api.CodeCancelled, "the daemon is being stopped")
		case <-time.After(againEvery):
		}
	}
}

func notInTime(session api.Session) error {
	return api.Errorf(api.CodeTimeout, "session %s of VM %s did not end in time", session.Name, session.VM).
		WithHint("banger session logs %s %s", session.VM, session.Name)
}

func (s *Service) waitOnce(ctx context.Context, session api.Session) (api.Session, error) {
	g, err := s.Reach(ctx, session.VMID)
	if err != nil {
		return session, err
	}
	defer g.Close()
	raw, err := g.Agent.WaitSession(ctx, session.ID)
	switch {
	case api.CodeOf(err) == api.CodeTimeout:
		return session, notInTime(session)
	case err != nil:
		return session, g.Why(err)
	}
	return s.heardOf(ctx, g.VM, raw)
}
