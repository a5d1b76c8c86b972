// Package brief is the short form of the few messages that every new clone begins with: an identity and what the guest
// says to it, the start of a command and its exit. Elsewhere host and agent speak HTTP and JSON, which under emulation take a
// clone that does all for the first time a tenth of its start. One list of fields per message does for both
// directions. guest and agent/serve import it.
//
// A message is the first frame of its stream, without any HTTP before it: channels are below the letters that
// a method begins with. Errors are answered as frame.Control in JSON. Whether both ends know this very form is settled
// when they greet each other, see package link.
package brief

import (
	"encoding/binary"
	"time"

	"banger/api"
	"banger/api/agentapi"
)

// IsFrame tells by its first byte that a stream begins with a frame, and not with HTTP.
func IsFrame(first byte) bool { return first < 'A' }

// AppendPersonalise appends p to b.
func AppendPersonalise(b []byte, p agentapi.Personalise) []byte {
	return put(b, func(c *coder) { c.personalise(&p) })
}

// Personalise reads what AppendPersonalise wrote. The error has code invalid, as of all that follow.
func Personalise(b []byte) (p agentapi.Personalise, err error) {
	err = get(b, func(c *coder) { c.personalise(&p) })
	return p, err
}

// AppendHealth appends h to b.
func AppendHealth(b []byte, h agentapi.Health) []byte {
	return put(b, func(c *coder) { c.health(&h) })
}

// Health reads what AppendHealth wrote.
func Health(b []byte) (h agentapi.Health, err error) {
	err = get(b, func(c *coder) { c.health(&h) })
	return h, err
}

// AppendExec appends s to b.
func AppendExec(b []byte, s api.ExecSpec) []byte { return put(b, func(c *coder) { c.exec(&s) }) }

// Exec reads what AppendExec wrote.
func Exec(b []byte) (s api.ExecSpec, err error) {
	err = get(b, func(c *coder) { c.exec(&s) })
	return s, err
}

// AppendExit appends the fields of a control message exit to b, but for Error.
func AppendExit(b []byte, m api.Control) []byte { return put(b, func(c *coder) { c.exit(&m) }) }

// Exit reads what AppendExit wrote.
func Exit(b []byte) (m api.Control, err error) {
	err = get(b, func(c *coder) { c.exit(&m) })
	m.Type = api.ControlExit
	return m, err
}

// The messages, field by field. Whoever changes one changes link.Speech.

func (c *coder) personalise(p *agentapi.Personalise) {
	c.text(&p.Thawed)
	c.bytes(&p.Entropy)
	c.time(&p.Time)
	c.text(&p.Hostname)
	c.text(&p.MachineID)
	if optional(c, &p.Network) {
		c.text(&p.Network.MAC)
		c.text(&p.Network.Address)
		c.text(&p.Network.Gateway)
		c.count(&p.Network.MTU)
		c.texts(&p.Network.Resolvers)
		c.texts(&p.Network.SearchList)
	}
	if optional(c, &p.WorkDisk) {
		c.text(&p.WorkDisk.Device)
		c.number(&p.WorkDisk.Bytes)
	}
	c.bytes(&p.SSHHostKey)
	c.text(&p.SSHHostKeyPub)
	c.texts(&p.AuthorizedKeys)
	if optional(c, &p.Git) {
		c.text(&p.Git.Name)
		c.text(&p.Git.Email)
	}
	n := c.size(len(p.Files), p.Files == nil)
	if c.reading && n >= 0 {
		p.Files = make([]agentapi.File, n)
	}
	for i := range p.Files {
		f := &p.Files[i]
		mode := int(f.Mode)
		c.text(&f.Path)
		c.count(&mode)
		c.flag(&f.Dir)
		c.bytes(&f.Data)
		f.Mode = uint32(mode)
	}
}

func (c *coder) health(h *agentapi.Health) {
	c.flag(&h.Ready)
	c.text(&h.Waiting)
	c.texts(&h.Degraded)
	c.text(&h.BootID)
	c.text(&h.AgentID)
	c.text(&h.Version)
	c.text(&h.Init)
	c.flag(&h.Personalised)
	c.number(&h.UptimeMS)
	c.time(&h.Now)
	c.texts(&h.Unwritten)
}

func (c *coder) exec(s *api.ExecSpec) {
	c.texts(&s.Argv)
	c.texts(&s.Env)
	c.text(&s.Cwd)
	c.text(&s.User)
	c.flag(&s.TTY)
	c.count(&s.Rows)
	c.count(&s.Cols)
	c.flag(&s.Stdin)
	c.number(&s.TimeoutMS)
	c.bytes(&s.StdinData)
	c.number(&s.OutputLimitBytes)
	c.flag(&s.Main)
}

func (c *coder) exit(m *api.Control) {
	c.count(&m.ExitCode)
	c.text(&m.Signal)
	c.flag(&m.TimedOut)
	c.number(&m.DurationMS)
}

// coder appends fields to b or, reading, takes them from it.
type coder struct {
	b       []byte
	reading bool
	bad     bool
}

func put(b []byte, fields func(*coder)) []byte {
	c := coder{b: b}
	fields(&c)
	return c.b
}

func get(b []byte, fields func(*coder)) error {
	c := coder{b: b, reading: true}
	fields(&c)
	if c.bad || len(c.b) > 0 {
		return api.Errorf(api.CodeInvalid, "a message from another version, or broken")
	}
	return nil
}

func (c *coder) number(n *int64) {
	if !c.reading {
		c.b = binary.AppendVarint(c.b, *n)
		return
	}
	v, used := binary.Varint(c.b)
	if used <= 0 {
		c.bad, c.b = true, nil
		return
	}
	*n, c.b = v, c.b[used:]
}

func (c *coder) count(n *int) {
	v := int64(*n)
	c.number(&v)
	*n = int(v)
}

func (c *coder) flag(f *bool) {
	n := 0
	if *f {
		n = 1
	}
	c.count(&n)
	*f = n != 0
}

// bytes keeps nil apart from what is empty.
func (c *coder) bytes(p *[]byte) {
	n := c.size(len(*p), *p == nil)
	switch {
	case !c.reading:
		c.b = append(c.b, *p...)
	case n >= 0:
		*p = append(make([]byte, 0, n), c.b[:n]...)
		c.b = c.b[n:]
	}
}

func (c *coder) text(s *string) {
	n := c.size(len(*s), false)
	switch {
	case !c.reading:
		c.b = append(c.b, *s...)
	case n >= 0:
		*s = string(c.b[:n])
		c.b = c.b[n:]
	}
}

func (c *coder) texts(list *[]string) {
	n := c.size(len(*list), *list == nil)
	if c.reading && n >= 0 {
		*list = make([]string, n)
	}
	for i := range *list {
		c.text(&(*list)[i])
	}
}

// size is that of a list, below 0 for none. Each element takes a byte at least: a size that is read is never more
// than there are.
func (c *coder) size(n int, none bool) int {
	v := int64(n)
	if none {
		v = -1
	}
	c.number(&v)
	if c.reading && (v < -1 || v > int64(len(c.b))) {
		c.bad, c.b = true, nil
		return -1
	}
	return int(v)
}

// time is in nanoseconds since 1970, of no zone; the zero time stays so.
func (c *coder) time(t *time.Time) {
	var n int64
	if !t.IsZero() {
		n = t.UnixNano()
	}
	c.number(&n)
	if c.reading && n != 0 {
		*t = time.Unix(0, n)
	}
}

// optional carries whether there is one; reading, it makes it.
func optional[T any](c *coder, p **T) bool {
	there := *p != nil
	c.flag(&there)
	if c.reading && there {
		*p = new(T)
	}
	return there
}
