package fake

import (
	"context"
	"net"
	"os"

	"banger/api"
	"banger/internal/host"
)

// jails has none: what runs in a jail is a real VMM.
type jails struct{}

var _ host.Jails = jails{}

func (jails) CanJail() error {
	return api.Errorf(api.CodeUnsupported, "a machine made of memory has no jails")
}

func (j jails) PrepareJail(context.Context, host.Jail) error                 { return j.CanJail() }
func (j jails) LinkIntoJail(host.Jail, string, *os.File, bool) error         { return j.CanJail() }
func (j jails) DeviceIntoJail(host.Jail, string, uint32, uint32, bool) error { return j.CanJail() }
func (j jails) SpawnJailed(host.Jailed) (host.Process, error)                { return host.Process{}, j.CanJail() }
func (jails) InJail(host.Jail, host.Process) bool                            { return false }
func (j jails) OpenJailed(host.Jail, string) (*os.File, error)               { return nil, j.CanJail() }
func (jails) RemoveJail(context.Context, host.Jail) error                    { return nil }
func (j jails) DialJailed(context.Context, host.Jail, string, host.Process) (net.Conn, error) {
	return nil, j.CanJail()
}
func (jails) RemoveJailed(host.Jail, string) error { return nil }
