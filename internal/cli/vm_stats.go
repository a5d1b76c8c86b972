package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

type statsOptions struct {
	follow   bool
	interval durationFlag
}

func newStatsCmd(a *app) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:               "stats [flags] [VM...]",
		Short:             "show what VMs use: CPU time, memory, disk, network",
		Long:              "Show what VMs use, all that run or those named. Counters begin at 0 with each start.",
		ValidArgsFunction: a.completeRunning,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, unique(args)) },
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "show it again and again until Ctrl-C")
	cmd.Flags().Var(&o.interval, "interval", "time between two looks with --follow (default 2s)")
	return cmd
}

func (o *statsOptions) run(ctx context.Context, a *app, refs []string) error {
	c, err := a.daemon()
	if err != nil {
		return err
	}
	interval := 2 * time.Second
	if o.interval.set {
		interval = o.interval.d
	}
	var last []api.VMStats
	for {
		stats, err := o.take(ctx, a, c, refs)
		if err != nil {
			return err
		}
		if err := o.show(a, stats, last); err != nil || !o.follow {
			return err
		}
		last = stats
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}

func (o *statsOptions) take(ctx context.Context, a *app, c *client.Client, refs []string) ([]api.VMStats, error) {
	if len(refs) == 0 {
		return c.AllStats(ctx)
	}
	stats, errs := []api.VMStats{}, make([]error, len(refs))
	for i, r := range refs {
		s, err := c.Stats(ctx, r)
		if errs[i] = err; err == nil {
			stats = append(stats, s)
		}
	}
	return stats, a.allErrors(errs)
}

func (o *statsOptions) show(a *app, stats, last []api.VMStats) error {
	if a.json {
		if !o.follow {
			return writeJSON(a.Out, append([]api.VMStats{}, stats...))
		}
		for _, s := range stats {
			if err := writeJSONLine(a.Out, s); err != nil {
				return err
			}
		}
		return nil
	}
	if o.follow && isTerminal(a.Out) {
		fmt.Fprint(a.Out, "\x1b[H\x1b[2J")
	}
	heading := []string{"NAME", "CPU TIME", "MEMORY", "GUEST USES", "DISK", "READ", "WRITTEN", "NET IN", "NET OUT"}
	if o.follow {
		heading = append(heading, "CPU")
	}
	t := newTable(heading...)
	for _, s := range stats {
		row := []string{s.Name, milliseconds(s.CPUMS), config.FormatSize(s.RSSBytes), config.FormatSize(s.GuestMemUsedBytes),
			config.FormatSize(s.DiskUsedBytes), config.FormatSize(s.DiskReadBytes), config.FormatSize(s.DiskWriteBytes),
			config.FormatSize(s.NetRxBytes), config.FormatSize(s.NetTxBytes)}
		if o.follow {
			row = append(row, cpuShare(s, last))
		}
		t.add(row...)
	}
	return t.write(a.Out)
}

// cpuShare is the CPU used since the last look, in per cent of one CPU.
func cpuShare(s api.VMStats, last []api.VMStats) string {
	for _, l := range last {
		if span := s.At.Sub(l.At).Milliseconds(); l.VMID == s.VMID && span > 0 && s.CPUMS >= l.CPUMS {
			return fmt.Sprintf("%.1f%%", 100*float64(s.CPUMS-l.CPUMS)/float64(span))
		}
	}
	return ""
}
