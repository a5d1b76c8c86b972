package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger/client"
	"banger/internal/config"
)

// home is a banger of its own: a state directory with the prepared images in it, and a daemon.
type home struct {
	ctx context.Context
	bin string
	// state is the state directory.
	state string
	env   []string
}

// newHome makes a home in a short, new directory below dir. env are further variables for its banger.
func (b *bench) newHome(name string, env ...string) (*home, error) {
	state := filepath.Join(b.dir, name)
	if err := os.Mkdir(state, 0o711); err != nil {
		return nil, err
	}
	for _, part := range []string{"images", "kernels", "banger.db"} {
		from := filepath.Join(".cache/test-state", part)
		if out, err := exec.Command("cp", "-a", "--reflink=auto", "--sparse=always", from, state).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("no prepared images (scripts/machine-state makes them): %s", out)
		}
	}
	h := &home{ctx: b.ctx, bin: b.bin, state: state}
	h.env = append(append(os.Environ(), "BANGER_STATE_DIR="+state, "BANGER_CONFIG_DIR="+filepath.Join(b.dir, "c"+name), "BANGER_IMAGE=minimal", "BANGER_POOL=0"), env...)
	return h, nil
}

// client is a way to its daemon from this process.
func (h *home) client() (*client.Client, error) {
	cfg, err := config.Load(config.Inputs{Environ: h.env, UID: os.Geteuid()})
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{Socket: cfg.Paths.Socket(), DaemonLog: cfg.Paths.DaemonLog(), NoStart: true}), nil
}

// daemonPID is the process of its daemon, which must run.
func (h *home) daemonPID() (int, error) {
	text, err := os.ReadFile(filepath.Join(h.state, "bangerd.lock"))
	if err != nil {
		return 0, err
	}
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	return pid, err
}

// close leaves nothing behind.
func (h *home) close() error {
	h.ctx = context.WithoutCancel(h.ctx)
	out, err := h.output("ps", "-aq")
	if ids := strings.Fields(string(out)); len(ids) > 0 {
		err = errors.Join(err, h.banger(append([]string{"rm", "-f"}, ids...)...))
	}
	return errors.Join(err, h.banger("daemon", "stop"), os.RemoveAll(h.state))
}

// banger runs a command; what it said is in the error.
func (h *home) banger(args ...string) error {
	_, err := h.output(args...)
	return err
}

func (h *home) json(v any, args ...string) error {
	out, err := h.output(args...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, v)
}

func (h *home) output(args ...string) ([]byte, error) {
	out, _, err := h.both(args...)
	return out, err
}

func (h *home) both(args ...string) (stdout []byte, stderr string, err error) {
	cmd := exec.CommandContext(h.ctx, filepath.Join(h.bin, "banger"), args...)
	cmd.Env = h.env
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, "", fmt.Errorf("banger %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out, errs.String(), nil
}

// act is one way of doing a thing, once; what it returns is the sample.
type act func(round int) (float64, error)

// timed is the act of running something, in ms.
func timed(do func(round int) error) act {
	return func(round int) (float64, error) {
		begin := time.Now()
		err := do(round)
		return float64(time.Since(begin).Microseconds()) / 1000, err
	}
}

// alternate does each act in turn, rounds times, after one round that does not count (round -1).
func (b *bench) alternate(rounds int, acts ...act) ([][]float64, error) {
	samples := make([][]float64, len(acts))
	for round := -1; round < rounds; round++ {
		if err := warmMemory(roundMemory); err != nil {
			return nil, err
		}
		for i, do := range acts {
			if err := b.ctx.Err(); err != nil {
				return nil, err
			}
			v, err := do(round)
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				samples[i] = append(samples[i], v)
			}
		}
	}
	return samples, nil
}
