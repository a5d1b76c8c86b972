package client

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"

	"banger/api"
)

// StatFile describes a path in the guest.
func (c *Client) StatFile(ctx context.Context, ref, path string) (api.FileStat, error) {
	return call[api.FileStat](ctx, c, request{method: http.MethodGet, path: vmPath(ref, "stat"), query: url.Values{"path": {path}}})
}

// GetFile reads one file of the guest. The caller closes it.
func (c *Client) GetFile(ctx context.Context, ref, path string) (io.ReadCloser, fs.FileMode, error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: vmPath(ref, "files"), query: url.Values{"path": {path}}})
	if err != nil {
		return nil, 0, err
	}
	mode, err := strconv.ParseUint(resp.Header.Get(api.FileModeHeader), 8, 32)
	if err != nil {
		mode = 0o644
	}
	return resp.Body, fs.FileMode(mode), nil
}

// PutFile writes one file of the guest, put in place by rename. An empty user means root.
func (c *Client) PutFile(ctx context.Context, ref, path, user string, mode fs.FileMode, r io.Reader) error {
	q := url.Values{"path": {path}, "mode": {strconv.FormatUint(uint64(mode.Perm()), 8)}}
	if user != "" {
		q.Set("user", user)
	}
	return c.callNone(ctx, request{method: http.MethodPut, path: vmPath(ref, "files"), query: q, stream: r})
}

// GetTree reads a file or directory of the guest as a tar stream whose members are
// named from path's base name. The caller closes it.
func (c *Client) GetTree(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: vmPath(ref, "tree"), query: url.Values{"path": {path}}})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// PutTree unpacks a tar stream below the directory path of the guest. An empty user means root.
func (c *Client) PutTree(ctx context.Context, ref, path, user string, r io.Reader) error {
	q := url.Values{"path": {path}}
	if user != "" {
		q.Set("user", user)
	}
	return c.callNone(ctx, request{method: http.MethodPut, path: vmPath(ref, "tree"), query: q, stream: r})
}

// LogOptions say which part of which log.
type LogOptions struct {
	// Source is "main" (or empty) for the main command's output, "console" for the guest's console.
	Source string
	// Stream is "stdout" or "stderr" of the main command; empty: both.
	Stream string
	// Offset is the first byte wanted; -1 leaves it to Tail.
	Offset int64
	// Tail is how many lines from the end; -1: all. Only where Offset is -1.
	Tail int
	// Follow goes on until the command, or for the console the VM, has ended.
	Follow bool
	// Timestamps puts its RFC 3339 time and a space before each line.
	Timestamps bool
}

// Logs reads a log; the offset is that of the first byte, later than the one asked for
// where older output is gone. The caller closes it.
func (c *Client) Logs(ctx context.Context, ref string, o LogOptions) (r io.ReadCloser, offset int64, err error) {
	q := url.Values{}
	set := func(key, value string, want bool) {
		if want {
			q.Set(key, value)
		}
	}
	set("source", o.Source, o.Source != "")
	set("stream", o.Stream, o.Stream != "")
	set("offset", strconv.FormatInt(o.Offset, 10), o.Offset >= 0)
	set("tail", strconv.Itoa(o.Tail), o.Offset < 0 && o.Tail >= 0)
	set("follow", "true", o.Follow)
	set("timestamps", "true", o.Timestamps)
	resp, err := c.do(ctx, request{method: http.MethodGet, path: vmPath(ref, "logs"), query: q})
	if err != nil {
		return nil, 0, err
	}
	offset, err = strconv.ParseInt(resp.Header.Get(api.LogOffsetHeader), 10, 64)
	if err != nil {
		offset = 0
	}
	return resp.Body, offset, nil
}
