package vm

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/disk"
)

// statsTime bounds what a guest may take to give its own figures: a hung one must not hang the list.
const statsTime = time.Second

// Stats is what one VM uses now. A stopped one uses disk only.
func (s *Service) Stats(ctx context.Context, ref string) (api.VMStats, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return api.VMStats{}, err
	}
	return s.statsOf(ctx, vm), nil
}

// AllStats is what every running VM uses now, all asked at once.
func (s *Service) AllStats(ctx context.Context) ([]api.VMStats, error) {
	vms, err := s.Records.List(ctx, []string{"state=running"})
	if err != nil {
		return nil, err
	}
	out := make([]api.VMStats, len(vms))
	var all errgroup.Group
	all.SetLimit(32)
	for i, vm := range vms {
		all.Go(func() error {
			out[i] = s.statsOf(ctx, vm)
			return nil
		})
	}
	return out, all.Wait()
}

func (s *Service) statsOf(ctx context.Context, vm api.VM) api.VMStats {
	st := api.VMStats{VMID: vm.ID, Name: vm.Name, At: s.Now().UTC(), DiskUsedBytes: used(vm.Runtime.SystemOverlay) + used(vm.Runtime.WorkDiskPath)}
	l, alive := s.vmms.alive(vm.ID)
	if !alive {
		return st
	}
	if u, err := s.Host.Usage(l.instance.Process()); err == nil {
		st.CPUMS, st.RSSBytes = u.CPU.Milliseconds(), u.RSSBytes
	}
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	if drives, err := l.instance.DriveStats(ctx); err == nil {
		for _, serial := range []string{agentapi.SerialRoot, agentapi.SerialWork} {
			st.DiskReadBytes += drives[serial].ReadBytes
			st.DiskWriteBytes += drives[serial].WriteBytes
		}
	}
	if !vm.Ready {
		return st
	}
	if g, err := l.agent.Stats(ctx); err == nil {
		st.NetRxBytes, st.NetTxBytes = g.NetRxBytes, g.NetTxBytes
		st.GuestMemTotalBytes, st.GuestMemUsedBytes = g.MemTotalBytes, g.MemUsedBytes
	}
	return st
}

// used is what a file or a tree takes on the host's disk; what is gone, or goes meanwhile, is left out.
func used(path string) int64 {
	n, _ := disk.Used(path)
	return n
}
