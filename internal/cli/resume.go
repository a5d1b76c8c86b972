package cli

import (
	"context"
	"time"

	"banger/api"
)

// resumeTries and resumePause bound how long something that only looks on waits for the next daemon.
const (
	resumeTries = 5
	resumePause = 200 * time.Millisecond
)

// resuming calls look until it ends other than by the loss of the daemon: one that stops, is
// replaced or killed costs nobody who waits for a VM anything. look reports whether it
// has come any further since it was called.
func (a *app) resuming(ctx context.Context, look func() (further bool, err error)) error {
	for tries := 0; ; tries++ {
		further, err := look()
		if err == nil || ctx.Err() != nil || api.CodeOf(err) != api.CodeUnreachable {
			return err
		}
		if further {
			tries = 0
		}
		if tries >= resumeTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(resumePause):
		}
	}
}
