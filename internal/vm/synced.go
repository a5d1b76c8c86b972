package vm

import (
	"context"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/filesync"
	"banger/internal/operation"
)

// filesAlong is what of the host's files goes along with a guest's identity, in bytes: that is one frame. filesBatch bounds the further calls,
// in which they travel as JSON, see maxBody in package serve.
const (
	filesAlong = 32 << 10
	filesBatch = 5 << 19
)

// addFiles adds the host's files to what a guest is told at a start, and returns those for which there is no room. Each start reads
// them anew: none is kept.
func (u *bringUp) addFiles(ctx context.Context, p *agentapi.Personalise) (rest [][]agentapi.File) {
	if len(u.fileSync) == 0 {
		return nil
	}
	files, warnings := filesync.Read(u.home, u.fileSync)
	for _, w := range warnings {
		operation.Warn(ctx, "%s", w)
	}
	p.Files, rest = filesync.Share(files, filesAlong, filesBatch)
	return rest
}

// putFiles puts the rest into the guest, after it has answered with h. What a guest cannot take, such as with a full work disk, does not keep
// it from starting.
func (u *bringUp) putFiles(ctx context.Context, l *liveVM, h agentapi.Health, rest [][]agentapi.File) (err error) {
	for n := 0; ; n++ {
		for _, missing := range h.Unwritten {
			operation.Warn(ctx, "file_sync: not in the guest: %s", missing)
		}
		if n == len(rest) {
			return nil
		}
		if h, err = l.agent.Personalise(ctx, agentapi.Personalise{Files: rest[n]}); err != nil {
			return err
		}
	}
}

// isStart tells whether a guest is told who it is because it starts, and not because the daemon did.
func isStart(vm api.VM, known bool) bool {
	return vm.State != api.StatePooled && (!known || vm.State == api.StateStarting)
}
