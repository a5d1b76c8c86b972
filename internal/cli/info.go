package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

func newInfoCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "show the daemon, what this host can do, and what is free",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			info, err := c.Info(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Out, info)
			}
			return infoFields(a, info).write(a.Out)
		},
	}
}

func infoFields(a *app, i api.Info) *fields {
	f := &fields{}
	f.add("version", i.Version)
	f.add("daemon", fmt.Sprintf("pid %d, uid %d, begun %s", i.PID, i.UID, a.ago(i.StartedAt)))
	f.add("run by", i.Unit)
	f.add("rights", rightsWords(i.Rights))
	f.add("state", i.StateDir)
	f.add("socket", i.Socket)
	f.add("hypervisor", i.Hypervisor+": "+i.HypervisorReason)
	for _, h := range i.Hypervisors {
		f.add(h.Name, hypervisorWords(h))
	}
	f.add("accel", i.Accel+": "+i.AccelReason)
	f.add("to mend it", i.AccelHint)
	f.add("cpus", fmt.Sprintf("%d, load %.2f", i.CPUs, i.CPULoad))
	f.add("memory", config.FormatSize(i.MemoryFreeBytes)+" free of "+config.FormatSize(i.MemoryBytes))
	f.add("disk", config.FormatSize(i.DiskFreeBytes)+" free")
	f.add("default net", string(i.DefaultNet))
	f.add("vms", fmt.Sprintf("%d, %d of them running", i.VMs, i.VMsRunning))
	if i.PoolWanted > 0 {
		f.add("pool", fmt.Sprintf("%d of %d ready", i.PoolReady, i.PoolWanted))
	}
	for _, image := range i.Images {
		f.add("image", image.Name+"  "+short(image.Digest))
	}
	for _, k := range i.Kernels {
		f.add("kernel", k.Name+"  "+short(k.Digest)+"  "+k.Version)
	}
	f.add("health", i.Health)
	for _, p := range i.Problems {
		f.add("problem", p)
	}
	return f
}

func hypervisorWords(h api.Hypervisor) string {
	if h.Usable {
		return h.Version + ", " + h.Accel
	}
	if h.Hint == "" {
		return "cannot be used: " + h.Reason
	}
	return "cannot be used: " + h.Reason + "  -> " + h.Hint
}
