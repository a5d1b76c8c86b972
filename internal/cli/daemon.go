package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

func newDaemonCmd(a *app) *cobra.Command {
	cmd := group("daemon", "look at the daemon and stop it")
	cmd.AddCommand(newDaemonStatusCmd(a), newDaemonStopCmd(a), newDaemonLogsCmd(a))
	return cmd
}

// daemonStatus is the answer of `daemon status --json`.
type daemonStatus struct {
	Running bool   `json:"running"`
	Socket  string `json:"socket"`
	// PID is null if it does not run: a script may hand it to kill, where 0 means itself.
	PID     *int   `json:"pid"`
	Version string `json:"version"`
	// Unit is systemd's unit that runs it; empty where a command has started it.
	Unit   string     `json:"unit"`
	Rights api.Rights `json:"rights"`
	VMs    int        `json:"vms"`
	// VMsRunning go on running when the daemon stops.
	VMsRunning int        `json:"vms_running"`
	StartedAt  *time.Time `json:"started_at"`
}

func newDaemonStatusCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "say whether the daemon runs; exit code 1 if not",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.runningDaemon()
			if err != nil {
				return err
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			status := daemonStatus{Socket: cfg.Paths.Socket()}
			info, err := c.Info(cmd.Context())
			if err != nil && api.CodeOf(err) != api.CodeUnreachable {
				return err
			}
			if err == nil {
				status = daemonStatus{Running: true, Socket: info.Socket, PID: &info.PID, Version: info.Version, Unit: info.Unit, Rights: info.Rights, VMs: info.VMs, VMsRunning: info.VMsRunning, StartedAt: &info.StartedAt}
			}
			if a.json {
				err = writeJSON(a.Out, status)
			} else {
				err = status.print(a)
			}
			if err == nil && !status.Running {
				return exitWith(exitFailure)
			}
			return err
		},
	}
}

func (s daemonStatus) print(a *app) error {
	f := &fields{}
	if !s.Running {
		f.add("daemon", "not running; any other banger command starts it")
		f.add("socket", s.Socket)
		return f.write(a.Out)
	}
	f.add("daemon", fmt.Sprintf("running, pid %d, version %s, begun %s", *s.PID, s.Version, a.ago(*s.StartedAt)))
	f.add("run by", s.Unit)
	f.add("rights", rightsWords(s.Rights))
	f.add("socket", s.Socket)
	f.add("vms", fmt.Sprintf("%d, %d of them running", s.VMs, s.VMsRunning))
	return f.write(a.Out)
}

func rightsWords(r api.Rights) string {
	switch r {
	case api.RightsRoot:
		return "root"
	case api.RightsHelped:
		return "an ordinary user's, with bangerd-root for what only root may"
	default:
		return "an ordinary user's"
	}
}

func newDaemonStopCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "stop the daemon; its VMs go on running",
		Long: "Stop the daemon. Its VMs go on running, and the next command that needs the daemon\nstarts it again and finds them.",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.runningDaemon()
			if err != nil {
				return err
			}
			err = c.StopDaemon(cmd.Context())
			if api.CodeOf(err) == api.CodeUnreachable {
				a.note("the daemon is not running")
				return nil
			}
			return err
		},
	}
}

func newDaemonLogsCmd(a *app) *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use: "logs [flags]", Short: "show the daemon's log",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if !a.json {
				return showFile(cmd.Context(), a.Out, cfg.Paths.DaemonLog(), tail, follow)
			}
			r, w := io.Pipe()
			go func() { w.CloseWithError(showFile(cmd.Context(), w, cfg.Paths.DaemonLog(), tail, follow)) }()
			return jsonLog(a.Out, r)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written, until Ctrl-C")
	cmd.Flags().IntVarP(&tail, "tail", "n", -1, "only the last `N` lines")
	return cmd
}

// showFile prints a log of this host from its file: it is there also when the daemon is not.
func showFile(ctx context.Context, w io.Writer, path string, tail int, follow bool) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.CodeNotFound, "the daemon has written no log yet (%s)", path)
	}
	if err != nil {
		return api.Errorf(api.CodeInvalid, "cannot read the daemon's log: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	if tail >= 0 {
		if err := seekLines(f, tail); err != nil {
			return err
		}
	}
	for {
		if _, err := io.Copy(w, f); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		if f, err = reopened(f, path); err != nil {
			return api.Errorf(api.CodeInvalid, "cannot read the daemon's log: %w", err)
		}
	}
}

// reopened is the log as it now is under its path: one that was rotated or cut short begins anew.
func reopened(f *os.File, path string) (*os.File, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return f, err
	}
	mine, err := f.Stat()
	if err != nil {
		return f, err
	}
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && os.SameFile(now, mine) && now.Size() >= at {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	next, err := os.Open(path)
	if err != nil {
		return f, err
	}
	return next, f.Close()
}

// seekLines goes to where the last n lines begin.
func seekLines(f *os.File, n int) error {
	starts := make([]int64, 0, n+1)
	var at int64
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			if at == 0 || len(starts) == 0 || starts[len(starts)-1] != at {
				starts = append(starts, at)
			}
		}
		at += int64(len(line))
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = r.ReadSlice('\n')
			at += int64(len(line))
		}
		if len(starts) > n {
			starts = starts[1:]
		}
		if err != nil {
			break
		}
	}
	to := at
	if len(starts) > 0 {
		to = starts[0]
	}
	_, err := f.Seek(to, io.SeekStart)
	return err
}
