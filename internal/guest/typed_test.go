package guest_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"banger/api"
	"banger/internal/frame"
	"banger/internal/guest"
)

// TestTypedOnce: a caller whose connection breaks again and again, at any moment, types everything once: it goes on from what the
// answer says that the command has been given.
func TestTypedOnce(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, *agent) *guest.SessionStream{
		"attach": func(t *testing.T, a *agent) *guest.SessionStream {
			s, err := a.AttachSession(within(t), "s", api.SessionAttach{Key: "mine"})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"send": func(t *testing.T, a *agent) *guest.SessionStream {
			s, err := a.SendSession(within(t), "s", "mine")
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := start(t, nil)
			// At first it takes little at a time, so that it is often in the middle of a frame.
			startSession(t, a, "s", withStdin(sh(`for i in $(seq 60); do sleep .02; dd bs=3000 count=3 2>/dev/null; done; exec cat`)))
			typed := make([]byte, 1<<20)
			for i := range typed {
				typed[i] = byte(rand.IntN(256))
			}
			first := open(t, a)
			if first.Stdin != -1 {
				t.Errorf("somebody new has typed %d bytes", first.Stdin)
			}
			breaks := 0
			for s, at := first, int64(0); at <= int64(len(typed)); breaks++ {
				k := talk(t, s, 0, 0).reads()
				pause := time.Duration(rand.IntN(100)) * time.Millisecond
				if breaks > 25 {
					pause = 30 * time.Second // let it come to its end
				}
				broken := time.AfterFunc(pause, func() { _ = k.conn.Close() })
				err := typeOn(k, typed, int(at))
				if err == nil && breaks > 25 {
					await(t, "the command has it all", func() bool {
						s, err := a.Session(within(t), "s")
						return err == nil && s.StdoutBytes == int64(len(typed))
					})
				}
				broken.Stop()
				_ = k.conn.Close()
				if err == nil && breaks > 25 {
					break
				}
				s = open(t, a)
				if s.Stdin < at {
					t.Fatalf("%d bytes had been taken, and now %d", at, s.Stdin)
				}
				at = s.Stdin
				if at > int64(len(typed)) {
					_ = s.Close()
				}
			}
			if s, err := a.WaitSession(within(t), "s"); err != nil || s.StdoutBytes != int64(len(typed)) {
				t.Errorf("%+v %v", s, err)
			}
			r, _, err := a.SessionLog(within(t), "s", "stdout", guest.LogFrom{}, false)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, typed) {
				t.Errorf("it got %d bytes, which are not what was typed (%v)", len(got), err)
			}
		})
	}
}

// typeOn types what is left, in pieces of all sizes, and the end, unless that has been taken.
func typeOn(k *talker, typed []byte, at int) error {
	if at > len(typed) {
		return nil
	}
	for typed = typed[at:]; len(typed) > 0; {
		n := min(1+rand.IntN(1<<rand.IntN(17)), len(typed))
		if err := k.Write(frame.Stdin, typed[:n]); err != nil {
			return err
		}
		typed = typed[n:]
	}
	return k.Control(api.Control{Type: api.ControlEOF})
}
