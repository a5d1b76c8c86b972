package guest_test

import (
	"context"
	"net"
	"testing"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
)

// older hides that an agent knows package brief.
type older struct{ net.Conn }

func TestAgentsWithAndWithoutBrief(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	conn, err := a.session.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := conn.(interface{ Brief() bool }); !ok || !s.Brief() {
		t.Error("the agent does not count as one that knows package brief")
	}
	_ = conn.Close()
	plain := guest.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := a.session.Open(ctx)
		return older{conn}, err
	})
	for name, c := range map[string]*guest.Client{"brief": a.Client, "older": plain} {
		res, err := c.ExecWait(within(t), sh("echo out; echo err >&2; exit 3"))
		if err != nil || res.ExitCode != 3 || res.Stdout != "out\n" || res.Stderr != "err\n" {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		if res, err := c.ExecWait(within(t), api.ExecSpec{Argv: []string{"/no/such"}}); err != nil || res.ExitCode != 127 {
			t.Errorf("%s: a command that is not there: %+v, %v", name, res, err)
		}
		if _, err := c.ExecWait(within(t), api.ExecSpec{Argv: []string{"true"}, User: "nobody there"}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: a spec that makes no sense: %v", name, err)
		}
		if _, err := c.Personalise(within(t), agentapi.Personalise{Hostname: "x"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
