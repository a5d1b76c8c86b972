package guest

import (
	"context"
	"net"
	"net/http"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/frame/brief"
)

// briefly opens a stream to an agent that knows this version of package brief, and sends the first frame. It returns nil
// where the agent, which may be another version's, does not.
func (c *Client) briefly(ctx context.Context, ch frame.Channel, message func() []byte) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if s, ok := conn.(interface{ Brief() bool }); !ok || !s.Brief() {
		_ = conn.Close()
		return nil, nil
	}
	b := message()
	if len(b) > frame.MaxPayload { // HTTP has room for it
		_ = conn.Close()
		return nil, nil
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = frame.NewWriter(conn).Write(ch, b)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, unreachable(ctx, err)
	}
	return conn, nil
}

// identify is the call /personalise.
func (c *Client) identify(ctx context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	conn, err := c.briefly(ctx, frame.Identity, func() []byte { return brief.AppendPersonalise(nil, p) })
	if err != nil {
		return agentapi.Health{}, err
	}
	if conn == nil {
		return post[agentapi.Health](ctx, c, "/personalise", p)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	f, err := frame.NewReader(conn).Read()
	if err != nil {
		return agentapi.Health{}, unreachable(ctx, err)
	}
	return healthIn(f)
}

// healthIn is what the agent answers to an identity.
func healthIn(f frame.Frame) (agentapi.Health, error) {
	if f.Channel == frame.State {
		return brief.Health(f.Payload)
	}
	m, err := f.Control()
	if err == nil && m.Error != nil {
		err = m.Error
	} else if err == nil {
		err = api.Errorf(api.CodeInternal, "the agent gave no reason")
	}
	return agentapi.Health{}, err
}

// start opens a stream on which the agent has been told to run a command.
func (c *Client) start(ctx context.Context, spec api.ExecSpec) (net.Conn, error) {
	conn, err := c.briefly(ctx, frame.Start, func() []byte { return brief.AppendExec(nil, spec) })
	if err != nil || conn != nil {
		return conn, err
	}
	if conn, err = c.upgrade(ctx, http.MethodPost, "/exec", nil, api.UpgradeFrames); err != nil {
		return nil, err
	}
	if err := frame.NewWriter(conn).Control(api.Control{Type: api.ControlStart, Exec: &spec}); err != nil {
		_ = conn.Close()
		return nil, broken(ctx, err)
	}
	return conn, nil
}
