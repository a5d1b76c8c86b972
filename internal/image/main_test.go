package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/operation"
	"banger/internal/store"
)

// rig is a service on the real machine, in a directory of its own.
type rig struct {
	*Service
	t   *testing.T
	ops *operation.Registry
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigIn(t, t.TempDir())
}

func newRigIn(t *testing.T, dir string) *rig {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testLog{t}, nil))
	p := config.Paths{State: dir}
	st, err := store.Open(t.Context(), p.Database(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ops := operation.NewRegistry(time.Now, rand.Text, log)
	t.Cleanup(func() {
		ops.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{Service: New(Options{Host: local.New(), Paths: p, Store: st, UID: os.Geteuid(), Now: time.Now, Log: log}), t: t, ops: ops}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// do runs fn as an operation, as the daemon does.
func do[T any](r *rig, fn func(context.Context, *operation.Operation) (T, error)) (T, api.Operation, error) {
	r.t.Helper()
	var out T
	op := r.ops.Start("test", "", func(ctx context.Context, op *operation.Operation) error {
		var err error
		out, err = fn(ctx, op)
		return err
	})
	end, err := op.Wait(r.t.Context())
	for _, s := range end.Steps {
		r.t.Logf("%-28s %5d ms", s.Name, s.DurationMS)
	}
	return out, end, err
}

// run runs a program of the host and gives its output.
func (r *rig) run(program string, args ...string) string {
	r.t.Helper()
	var out bytes.Buffer
	if err := r.Host.Run(r.t.Context(), host.Command{Path: program, Args: args, Stdout: &out}); err != nil {
		r.t.Fatalf("%s %v: %v\n%s", program, args, err, out.String())
	}
	return out.String()
}

// fsck fails the test unless the file system is whole.
func (r *rig) fsck(disk string) {
	r.t.Helper()
	r.run("e2fsck", "-f", "-n", disk)
}

// stat is what debugfs says of a file in a disk.
func (r *rig) stat(disk, name string) string { return r.run("debugfs", "-R", "stat "+name, disk) }

// noLeftovers fails the test if anything half-made is left.
func (r *rig) noLeftovers() {
	r.t.Helper()
	left, err := filepath.Glob(filepath.Join(r.Paths.Temp(), "*"))
	if err != nil || len(left) > 0 {
		r.t.Fatalf("left in %s: %v %v", r.Paths.Temp(), left, err)
	}
}
