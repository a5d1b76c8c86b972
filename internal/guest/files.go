package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// Stat describes a path in the guest, symbolic links followed. A relative path starts at
// root's home, here and in all of the following.
func (c *Client) Stat(ctx context.Context, path string) (api.FileStat, error) {
	return get[api.FileStat](ctx, c, "/stat", url.Values{"path": {path}})
}

// GetFile reads one regular file. size is -1 where it is not known before. A Read that
// fails before the end returns an error that is not io.EOF. The caller closes it.
func (c *Client) GetFile(ctx context.Context, path string) (file io.ReadCloser, mode fs.FileMode, size int64, err error) {
	r, err := c.do(ctx, request{method: http.MethodGet, path: "/files", query: url.Values{"path": {path}}})
	if err != nil {
		return nil, 0, 0, err
	}
	bits, err := strconv.ParseUint(r.Header.Get(agentapi.FileModeHeader), 8, 12)
	if err != nil {
		return nil, 0, 0, r.fail(err)
	}
	return r.Body, fileMode(uint32(bits)), r.ContentLength, nil
}

func fileMode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	if bits&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if bits&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if bits&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// PutFile writes one file, in one step: nobody sees half of it. A nil mode or an empty user
// leaves those of the file that is replaced, else 0644 and root.
func (c *Client) PutFile(ctx context.Context, path, user string, mode *fs.FileMode, r io.Reader) error {
	q := url.Values{"path": {path}, "user": {user}}
	if mode != nil {
		bits := uint32(mode.Perm())
		for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
			if *mode&flag != 0 {
				bits |= bit
			}
		}
		q.Set("mode", fmt.Sprintf("%04o", bits))
	}
	_, err := call[struct{}](ctx, c, request{method: http.MethodPut, path: "/files", query: q, body: r})
	return err
}

// GetTree reads a directory (or file) as a tar stream whose members begin with the path's base name, or
// with "." for DIR/. ; see package frame/tree. io.EOF means that it was whole. The caller closes it.
func (c *Client) GetTree(ctx context.Context, path string) (*Tree, error) {
	r, err := c.do(ctx, request{method: http.MethodGet, path: "/tree", query: url.Values{"path": {path}}})
	if err != nil {
		return nil, err
	}
	return &Tree{r: r}, nil
}

// GetImage reads the guest's root disk as a tar stream, without anything of this guest's identity. Who writes to the disk waits
// until it is closed.
func (c *Client) GetImage(ctx context.Context) (*Tree, error) {
	r, err := c.do(ctx, request{method: http.MethodGet, path: "/image"})
	if err != nil {
		return nil, err
	}
	return &Tree{r: r}, nil
}

// Tree is a tar stream from the guest.
type Tree struct{ r *response }

func (t *Tree) Read(p []byte) (int, error) {
	n, err := t.r.Body.Read(p)
	if err == io.EOF {
		if v := t.r.Trailer.Get(agentapi.TreeErrorTrailer); v != "" {
			var e api.Error
			if json.Unmarshal([]byte(v), &e) != nil || e.Code == "" {
				e = *api.Errorf(api.CodeInternal, "the guest could not read the tree")
			}
			return n, &e
		}
	}
	return n, err
}

// Skipped names what did not travel, at most 20; known once Read has returned io.EOF.
func (t *Tree) Skipped() []string {
	var out []string
	_ = json.Unmarshal([]byte(t.r.Trailer.Get(agentapi.TreeSkippedTrailer)), &out)
	return out
}

func (t *Tree) Close() error { return t.r.Body.Close() }

// PutTree unpacks a tar stream below a directory that exists. Everything belongs to user, empty means root.
func (c *Client) PutTree(ctx context.Context, path, user string, r io.Reader) error {
	_, err := call[struct{}](ctx, c, request{
		method: http.MethodPut, path: "/tree", query: url.Values{"path": {path}, "user": {user}}, body: r,
	})
	return err
}
