package cli

import (
	"context"
	"time"
)

// reattachTime is how long a lost connection is tried to be made again: the daemon, or the guest's agent, may be starting.
const reattachTime = time.Minute

// outage is the time without a connection to a session; its zero value is that there is one.
type outage struct{ since time.Time }

// again waits a little, and reports whether to try once more.
func (o *outage) again(ctx context.Context, now time.Time) bool {
	if o.since.IsZero() {
		o.since = now
	}
	if now.Sub(o.since) > reattachTime {
		return false
	}
	select {
	case <-ctx.Done():
	case <-time.After(resumePause):
	}
	return true
}

// sayUnsent tells that something is lost of what a session was sent: the command has been given all up to place (-1: nobody knows),
// and gets what comes from on.
func (a *app) sayUnsent(place, from int64) {
	switch {
	case place < 0:
		a.note("banger: nobody knows how much has arrived of what the session was sent last")
	case from > place:
		a.note("banger: %d bytes are lost of what the session was sent", from-place)
	}
}
