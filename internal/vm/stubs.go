// Package vm says what a VM may do and in which order.
package vm

import (
	"context"
	"io"
	"io/fs"
	"net"
	"time"

	"banger/api"
	"banger/internal/operation"
)

// ExecStream is an exec call that has been let in.
type ExecStream struct{}

func (e *ExecStream) Proxy(ctx context.Context, client io.ReadWriteCloser) error { panic("stub") }

type LogQuery struct {
	Source, Stream     string
	Offset             int64
	Tail               int
	Follow, Timestamps bool
}

func (s *Service) Create(ctx context.Context, c api.VMCreate) (api.VM, *operation.Operation, bool, error) {
	panic("stub")
}
func (s *Service) Get(ctx context.Context, ref string) (api.VM, error)          { panic("stub") }
func (s *Service) List(ctx context.Context, filters []string) ([]api.VM, error) { panic("stub") }
func (s *Service) Update(ctx context.Context, ref string, u api.VMUpdate) (api.VM, error) {
	panic("stub")
}
func (s *Service) Start(ctx context.Context, ref string) (*operation.Operation, error) { panic("stub") }
func (s *Service) Stop(ctx context.Context, ref string, timeout time.Duration) (*operation.Operation, error) {
	panic("stub")
}
func (s *Service) Restart(ctx context.Context, ref string, timeout time.Duration) (*operation.Operation, error) {
	panic("stub")
}
func (s *Service) Kill(ctx context.Context, ref string) (*operation.Operation, error) { panic("stub") }
func (s *Service) Reset(ctx context.Context, ref string, r api.VMReset) (*operation.Operation, error) {
	panic("stub")
}
func (s *Service) Delete(ctx context.Context, ref string, force bool) (*operation.Operation, error) {
	panic("stub")
}
func (s *Service) Signal(ctx context.Context, ref string, sig api.VMSignal) error { panic("stub") }
func (s *Service) OpenExec(ctx context.Context, ref string) (*ExecStream, error)  { panic("stub") }
func (s *Service) ExecWait(ctx context.Context, ref string, spec api.ExecSpec) (api.ExecResult, error) {
	panic("stub")
}
func (s *Service) StartMain(ctx context.Context, ref string, spec api.ExecSpec) (api.VM, error) {
	panic("stub")
}
func (s *Service) Dial(ctx context.Context, ref string, port int) (net.Conn, error) { panic("stub") }
func (s *Service) Logs(ctx context.Context, ref string, q LogQuery) (io.ReadCloser, int64, error) {
	panic("stub")
}
func (s *Service) Stats(ctx context.Context, ref string) (api.VMStats, error) { panic("stub") }
func (s *Service) AllStats(ctx context.Context) ([]api.VMStats, error)        { panic("stub") }
func (s *Service) Ports(ctx context.Context, ref string) ([]api.Port, error)  { panic("stub") }
func (s *Service) StatFile(ctx context.Context, ref, path string) (api.FileStat, error) {
	panic("stub")
}
func (s *Service) GetFile(ctx context.Context, ref, path string) (io.ReadCloser, fs.FileMode, error) {
	panic("stub")
}
func (s *Service) PutFile(ctx context.Context, ref, path, user string, mode fs.FileMode, r io.Reader) error {
	panic("stub")
}
func (s *Service) GetTree(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	panic("stub")
}
func (s *Service) PutTree(ctx context.Context, ref, path, user string, r io.Reader) error {
	panic("stub")
}
func (s *Service) Wait(ctx context.Context, ref, condition string) (api.WaitResult, error) {
	panic("stub")
}
func (s *Service) Events(ctx context.Context, after int64, follow bool, fn func(api.Event) error) error {
	panic("stub")
}
func (s *Service) Prune(ctx context.Context, dryRun bool) (api.PruneResult, error) { panic("stub") }
func (s *Service) Reconcile(ctx context.Context) error                             { panic("stub") }

// Service is all VMs of one daemon.
type Service struct{}

// Close lets go of all VMs without touching them.
func (s *Service) Close() {}
