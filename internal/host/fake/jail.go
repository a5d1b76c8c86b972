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

func (jails) CanJail(string, string) error { return errNone() }

func errNone() error { return api.Errorf(api.CodeUnsupported, "a machine made of memory has no jails") }

func (jails) PrepareJail(context.Context, host.Jail) error                 { return errNone() }
func (jails) LinkIntoJail(host.Jail, string, *os.File, bool) error         { return errNone() }
func (jails) DeviceIntoJail(host.Jail, string, uint32, uint32, bool) error { return errNone() }
func (jails) SpawnJailed(host.Jailed) (host.Process, error)                { return host.Process{}, errNone() }
func (jails) InJail(host.Jail, host.Process) bool                          { return false }
func (jails) OpenJailed(host.Jail, string) (*os.File, error)               { return nil, errNone() }
func (jails) RemoveJail(context.Context, host.Jail) error                  { return nil }
func (jails) DialJailed(context.Context, host.Jail, string, host.Process) (net.Conn, error) {
	return nil, errNone()
}
func (jails) RemoveJailed(host.Jail, string) error { return nil }
