package guest

import (
	"context"
	"net"
	"testing"

	"banger/api"
	"banger/api/agentapi"
)

// older hides that an agent knows package brief.
type older struct{ net.Conn }

func TestAgentsWithAndWithoutBrief(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	plain := New(func(ctx context.Context) (net.Conn, error) {
		conn, err := a.session.Open(ctx)
		return older{conn}, err
	})
	for name, c := range map[string]*Client{"brief": a.Client, "older": plain} {
		conn, err := c.dial(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := conn.(interface{ Brief() bool }); (ok && s.Brief()) != (name == "brief") {
			t.Errorf("%s: what the connection says of itself is wrong", name)
		}
		_ = conn.Close()
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
