package rootd

import (
	"bytes"
	"context"
	"encoding/json"
	"os"

	"banger/api"
	"banger/internal/host/local"
	"banger/internal/host/verb"
)

// question is a request under way; out are the descriptors of its answer.
type question struct {
	args       json.RawMessage
	files, out []*os.File
}

type handler func(ctx context.Context, q *question) (any, error)

// typed reads a verb's arguments, of which none may be unknown.
func typed[A any](do func(context.Context, *question, A) (any, error)) handler {
	return func(ctx context.Context, q *question) (any, error) {
		var a A
		d := json.NewDecoder(bytes.NewReader(q.args))
		d.DisallowUnknownFields()
		if err := d.Decode(&a); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "cannot read the verb's arguments: %w", err)
		}
		return do(ctx, q, a)
	}
}

func marshal(result any) (json.RawMessage, error) {
	if result == nil {
		return nil, nil
	}
	return json.Marshal(result)
}

// handlers is the closed list.
func (s *Server) handlers() map[verb.Verb]handler {
	return map[verb.Verb]handler{
		verb.Hello:        s.hello,
		verb.EnsureBridge: typed(s.ensureBridge),
		verb.OpenTap:      typed(s.openTap),
		verb.JoinBridge:   typed(s.joinBridge),
		verb.SetTapUp:     typed(s.setTapUp),
		verb.DeleteLink:   typed(s.deleteLink),
		verb.ApplyRules:   typed(s.applyRules),
		verb.ListRules:    s.listRules,
		verb.SetSysctl:    typed(s.setSysctl),
		verb.RouteNames:   typed(s.routeNames),
		verb.Listen:       typed(s.listen),
		verb.Spawn:        typed(s.spawn),
		verb.ExitStatus:   typed(s.exitStatus),
		verb.Signal:       typed(s.signal),
		verb.SetOOMScore:  typed(s.setOOMScore),
		verb.OpenMemory:   typed(s.openMemory),
		verb.OpenedAs:     typed(s.openedAs),
		verb.Give:         typed(s.give),

		verb.OpenLoop:      typed(s.openLoop),
		verb.ResizeLoop:    typed(s.resizeLoop),
		verb.LoopFile:      typed(s.loopFile),
		verb.CreateMapped:  typed(s.createMapped),
		verb.LoadMapped:    typed(s.loadMapped),
		verb.ClearMapped:   s.mapped((*local.Host).ClearMapped),
		verb.SuspendMapped: s.mapped((*local.Host).SuspendMapped),
		verb.ResumeMapped:  s.mapped((*local.Host).ResumeMapped),
		verb.RemoveMapped:  typed(s.removeMapped),
		verb.Mapped:        typed(s.showMapped),
		verb.MappedNames:   typed(s.mappedNames),

		verb.PrepareJail:    typed(s.prepareJail),
		verb.LinkIntoJail:   typed(s.linkIntoJail),
		verb.DeviceIntoJail: typed(s.deviceIntoJail),
		verb.SpawnJailed:    typed(s.spawnJailed),
		verb.DialJailed:     typed(s.dialJailed),
		verb.InJail:         typed(s.inJail),
		verb.OpenJailed:     typed(s.openJailed),
		verb.RemoveJailed:   typed(s.removeJailed),
		verb.RemoveJail:     typed(s.removeJail),
	}
}

func (s *Server) hello(context.Context, *question) (any, error) {
	r := verb.HelloReply{Version: api.Version, UIDBase: s.o.UIDBase, UIDCount: s.o.UIDCount, Bridge: s.o.Bridge, StateDir: s.o.StateDir}
	if err := s.host.CanBridge(); err != nil {
		r.NoBridge = api.AsError(err)
	}
	if err := s.host.CanMap(); err != nil {
		r.NoMap = api.AsError(err)
	}
	var err error
	if r.Firecracker, r.Jailer, err = s.canJail(); err != nil {
		r.NoJail = api.AsError(err)
	}
	return r, nil
}

// refuse words what a gate lets nobody through with.
func refuse(format string, args ...any) error { return api.Errorf(api.CodeDenied, format, args...) }
