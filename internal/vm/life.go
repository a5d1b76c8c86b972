package vm

import (
	"context"
	"sync"
)

// background is all goroutines that belong to VMs; they end with ctx.
type background struct {
	all sync.WaitGroup
	ctx context.Context
	end context.CancelFunc
}

func newBackground() *background {
	g := &background{}
	g.ctx, g.end = context.WithCancel(context.Background())
	return g
}

// do runs fn in the background until it returns or the service closes.
func (g *background) do(fn func(ctx context.Context)) {
	g.all.Go(func() { fn(g.ctx) })
}
