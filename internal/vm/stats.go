package vm

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/disk"
	"banger/internal/host"
)

// statsTime bounds what a guest may take to give its own figures: a hung one must not hang the list.
const statsTime = time.Second

// Stats is what VMs use.
type Stats struct {
	records *Records
	host    host.Host
	alive   func(id string) (*liveVM, bool)
	now     func() time.Time
}

// Of is what one VM uses now. A stopped one uses disk only.
func (s *Stats) Of(ctx context.Context, ref string) (api.VMStats, error) {
	vm, err := s.records.Get(ctx, ref)
	if err != nil {
		return api.VMStats{}, err
	}
	return s.statsOf(ctx, vm), nil
}

// All is what every running VM uses now, all asked at once.
func (s *Stats) All(ctx context.Context) ([]api.VMStats, error) {
	vms, err := s.records.List(ctx, []string{"state=running"})
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

func (s *Stats) statsOf(ctx context.Context, vm api.VM) api.VMStats {
	st := api.VMStats{VMID: vm.ID, Name: vm.Name, At: s.now().UTC(), DiskUsedBytes: used(vm.Runtime.SystemOverlay) + used(vm.Runtime.WorkDiskPath)}
	l, alive := s.alive(vm.ID)
	if !alive {
		return st
	}
	if u, err := s.host.Usage(l.instance.Process()); err == nil {
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
