package server

import (
	"context"
	"net/http"
	"time"

	"banger/api"
	"banger/internal/operation"
)

func (s *Server) listVMs(c *call) ([]api.VM, error) {
	return s.VMs.Records.List(c.ctx, c.query["filter"])
}

func (s *Server) createVM(c *call, create api.VMCreate) (api.VMCreated, error) {
	vm, op, created, err := s.VMs.Create(c.ctx, create)
	if err != nil {
		return api.VMCreated{}, err
	}
	out := api.VMCreated{VM: vm}
	if !created {
		c.status = http.StatusOK
	}
	if op != nil {
		snapshot, err := c.begun(op, nil)
		if err != nil {
			return api.VMCreated{}, err
		}
		c.status, out.Operation = http.StatusAccepted, &snapshot
	}
	return out, nil
}

func (s *Server) getVM(c *call) (api.VM, error) { return s.VMs.Records.Get(c.ctx, c.ref()) }

func (s *Server) updateVM(c *call, update api.VMUpdate) (api.VM, error) {
	return s.VMs.Update(c.ctx, c.ref(), update)
}

func (s *Server) recordWorkspace(c *call, w api.Workspace) (api.VM, error) {
	return s.VMs.Records.RecordWorkspace(c.ctx, c.ref(), w)
}

func (s *Server) deleteVM(c *call) (*operation.Operation, error) {
	return s.VMs.Delete(c.ctx, c.ref(), c.flag("force"))
}

func (s *Server) startVM(c *call, start api.VMStart) (*operation.Operation, error) {
	return s.VMs.Start(c.ctx, c.ref(), start)
}

func (s *Server) suspendVM(c *call) (*operation.Operation, error) {
	return s.VMs.Suspend(c.ctx, c.ref())
}

func (s *Server) hostShutdown(c *call) (*operation.Operation, error) {
	return s.VMs.HostPower.Down(c.ctx)
}

func (s *Server) hostBoot(c *call) (*operation.Operation, error) { return s.VMs.HostPower.Up(c.ctx) }

func (s *Server) forkVM(c *call, fork api.VMFork) (api.VMForked, error) {
	vms, op, err := s.VMs.Fork(c.ctx, c.ref(), fork)
	if err != nil {
		return api.VMForked{}, err
	}
	snapshot, err := c.begun(op, nil)
	return api.VMForked{VMs: vms, Operation: snapshot}, err
}

func (s *Server) pauseVM(c *call) (api.VM, error)   { return s.VMs.Pause(c.ctx, c.ref()) }
func (s *Server) unpauseVM(c *call) (api.VM, error) { return s.VMs.Unpause(c.ctx, c.ref()) }

func (s *Server) stopVM(c *call, stop api.VMStop) (*operation.Operation, error) {
	d, err := milliseconds("timeout_ms", stop.TimeoutMS)
	if err != nil {
		return nil, err
	}
	return s.VMs.Stop(c.ctx, c.ref(), d)
}

func (s *Server) restartVM(c *call, stop api.VMStop) (*operation.Operation, error) {
	d, err := milliseconds("timeout_ms", stop.TimeoutMS)
	if err != nil {
		return nil, err
	}
	return s.VMs.Restart(c.ctx, c.ref(), d)
}

func (s *Server) killVM(c *call) (*operation.Operation, error) { return s.VMs.Kill(c.ctx, c.ref()) }

func (s *Server) resetVM(c *call, reset api.VMReset) (*operation.Operation, error) {
	return s.VMs.Reset(c.ctx, c.ref(), reset)
}

func (s *Server) signalVM(c *call, signal api.VMSignal) (empty, error) {
	return empty{}, s.VMs.Guests.Signal(c.ctx, c.ref(), signal)
}

func (s *Server) startMain(c *call, spec api.ExecSpec) (api.VM, error) {
	return s.VMs.Guests.StartMain(c.ctx, c.ref(), spec)
}

func (s *Server) wait(c *call) (api.WaitResult, error) {
	condition := c.query.Get("for")
	if condition == "" {
		condition = "exit"
	}
	ctx := c.ctx
	d, err := milliseconds("timeout_ms", c.number("timeout_ms", 0))
	if err != nil {
		return api.WaitResult{}, err
	}
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d,
			api.Errorf(api.CodeTimeout, "waited %s for %s of %s, and it has not come", d, condition, c.ref()))
		defer cancel()
	}
	res, err := s.VMs.Guests.Wait(ctx, c.ref(), condition)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // whatever the wait was cut off with, this is why
	}
	return res, err
}

func (s *Server) stats(c *call) (api.VMStats, error)      { return s.VMs.Stats.Of(c.ctx, c.ref()) }
func (s *Server) allStats(c *call) ([]api.VMStats, error) { return s.VMs.Stats.All(c.ctx) }
func (s *Server) ports(c *call) ([]api.Port, error)       { return s.VMs.Guests.Ports(c.ctx, c.ref()) }

func (s *Server) prune(c *call) (api.PruneResult, error) {
	return s.VMs.Objects.Prune(c.ctx, c.flag("dry_run"))
}

// maxDuration keeps milliseconds far from where time.Duration overflows.
const maxDuration = 365 * 24 * time.Hour

func milliseconds(name string, ms int64) (time.Duration, error) {
	if ms < 0 || ms > maxDuration.Milliseconds() {
		return 0, api.Errorf(api.CodeInvalid, "%s is %d: it is 0 to %d", name, ms, maxDuration.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}
