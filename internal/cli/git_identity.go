package cli

import (
	"context"

	"banger/api"
)

// gitIdentity asks the caller's git who commits in a new VM are to be by. It is asked beside all else; the returned function waits
// for the answer. Without one the VM has nobody.
func (a *app) gitIdentity(ctx context.Context) func() *api.GitIdentity {
	nobody := func() *api.GitIdentity { return nil }
	cfg, err := a.config()
	if err != nil || cfg.GitIdentity == "none" {
		return nobody
	}
	type answer struct {
		g   *api.GitIdentity
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		g, err := a.gitHost().Identity(ctx)
		answers <- answer{g, err}
	}()
	return func() *api.GitIdentity {
		got := <-answers
		if got.err != nil && ctx.Err() == nil {
			a.note("note: commits in the VM will have no author: %v", got.err)
			return nil
		}
		return got.g
	}
}
