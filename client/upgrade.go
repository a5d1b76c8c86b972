package client

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger/api"
)

// stream is an upgraded connection. CloseWrite closes our direction and leaves the other open.
type stream struct {
	*net.UnixConn
	// buf holds what came right behind the answer's header.
	buf    *bufio.Reader
	header http.Header
}

func (s *stream) Read(p []byte) (int, error) { return s.buf.Read(p) }

// upgrade sends r and turns its connection into a stream. The end of ctx closes the
// connection only while the daemon has not answered; after that it is the caller's.
func (c *Client) upgrade(ctx context.Context, r request, token string) (*stream, error) {
	for again := false; ; again = true {
		s, err := c.tryUpgrade(ctx, r, token)
		if !errors.Is(err, errStopping) && (again || !unheard(err)) {
			return s, err
		}
	}
}

func (c *Client) tryUpgrade(ctx context.Context, r request, token string) (*stream, error) {
	req, err := r.build(ctx)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", token)
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, c.callError(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	resp, buf, err := exchange(conn, req) //nolint:bodyclose // the connection is the body, and becomes the stream
	if !stop() && err == nil {
		err = ctx.Err() // the deadline has been set behind our back
	}
	if err != nil {
		conn.Close()
		return nil, c.callError(ctx, err)
	}
	c.compareVersions(resp.Header)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != token {
		defer conn.Close()
		return nil, c.answerError(resp)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, api.Errorf(api.CodeInternal, "connection to the daemon is a %T", conn)
	}
	return &stream{unixConn, buf, resp.Header}, nil
}

func exchange(conn net.Conn, req *http.Request) (*http.Response, *bufio.Reader, error) {
	if err := req.Write(conn); err != nil {
		return nil, nil, err
	}
	buf := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buf, req)
	return resp, buf, err
}

// Dial connects to a TCP port on the guest's loopback. The connection carries half-close:
// it has a CloseWrite method.
func (c *Client) Dial(ctx context.Context, ref string, port int) (net.Conn, error) {
	q := url.Values{"port": {strconv.Itoa(port)}}
	s, err := c.upgrade(ctx, request{method: http.MethodGet, path: vmPath(ref, "dial"), query: q}, api.UpgradeRaw)
	if err != nil {
		return nil, err
	}
	return s, nil
}
