package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"banger/api"
	"banger/internal/hypervisor/qemu/qmp"
)

// flattenSpeed bounds how much is copied in a second, for the sake of everybody else's disks.
const flattenSpeed = 256 << 20

// Flatten lets QEMU copy the layers together (block-stream).
func (i *instance) Flatten(ctx context.Context, serial, base string) error {
	n, err := i.driveOf(serial)
	if err == nil {
		err = i.flatten(ctx, n, base)
	}
	if err == nil {
		return nil
	}
	if api.CodeOf(err) == api.CodeInternal && !i.hasRoom() {
		err = api.Errorf(api.CodeExhausted, "%w", err).WithHint("banger prune")
	}
	return fmt.Errorf("cannot flatten drive %s of %s: %w", serial, i.m.ID, err)
}

// flatten: the copying is done without the turn, so that a freeze never waits for it. When all is copied QEMU asks (the job is
// "pending") before it changes the layer's header. By then everything must be on disk, or a power cut could
// leave a header that no longer names the layers whose blocks are missing.
func (i *instance) flatten(ctx context.Context, n int, base string) error {
	c, j, err := i.beginFlatten(ctx, n, base)
	if err != nil || j == nil {
		return err
	}
	defer i.forgetJob(j)
	if err = i.awaitCopy(ctx, c, j); err == nil {
		// From here, with the guest running: QEMU's own flush would make it wait.
		err = flush(j.file)
	}
	if err == nil {
		err = i.turn.Take(ctx)
	}
	if err != nil {
		return errors.Join(err, i.dropJob(ctx, c, j))
	}
	defer i.turn.End()
	ctx, cancel := toTheEnd(ctx)
	defer cancel()
	select {
	case <-j.gone:
		return i.endOf(j)
	default:
	}
	err = c.Flush(ctx, j.top)
	if err == nil {
		err = c.FinalizeJob(ctx, j.id)
	}
	if err != nil {
		return errors.Join(err, i.dropJob(ctx, c, j))
	}
	if err := j.awaitGone(ctx, c); err != nil {
		return err
	}
	if err := i.endOf(j); err != nil {
		return err
	}
	return errors.Join(flush(j.file), i.dropUnused(ctx, c, n))
}

// beginFlatten starts the job; there is none when the drive lies on base already.
func (i *instance) beginFlatten(ctx context.Context, n int, base string) (*qmp.Client, *job, error) {
	if err := i.turn.Take(ctx); err != nil {
		return nil, nil, err
	}
	defer i.turn.End()
	c := i.currentControl()
	if c == nil {
		return nil, nil, qmp.ErrClosed
	}
	chain, err := i.chain(ctx, c, n)
	if err != nil {
		return nil, nil, err
	}
	end, below := len(chain), ""
	if base != "" {
		names := i.h.host.OpenedAs(i.p, base)
		end = slices.IndexFunc(chain, func(n qmp.Node) bool { return n.File == base || slices.Contains(names, n.File) })
		if end < 1 {
			return nil, nil, api.Errorf(api.CodeNotFound, "%s is not below its newest layer", base)
		}
		below = chain[end].Name
	}
	if end == 1 {
		return c, nil, nil
	}
	j := &job{id: jobPrefix + device(n), top: chain[0].Name, file: chain[0].File}
	if err := i.addJob(j); err != nil {
		return nil, nil, err
	}
	tctx, cancel := toTheEnd(ctx)
	defer cancel()
	err = c.BeginStream(qmp.Stream{
		Job: j.id, Node: j.top, Base: below, BackingFile: base, Filter: filterOf(n), Speed: flattenSpeed,
	}).Wait(tctx, nil)
	if err != nil {
		i.forgetJob(j)
		return nil, nil, err
	}
	return c, j, nil
}

// filterOf names the node that QEMU puts over the newest layer while it copies.
func filterOf(n int) string { return jobPrefix + node(n) }

// awaitCopy waits until all is copied.
func (i *instance) awaitCopy(ctx context.Context, c *qmp.Client, j *job) error {
	select {
	case <-j.pending:
		return nil
	case <-j.gone:
		return i.endOf(j)
	case <-c.Done():
		return qmp.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dropJob cancels a job that failed on our side, if it is still there.
func (i *instance) dropJob(ctx context.Context, c *qmp.Client, j *job) error {
	select {
	case <-j.gone:
		return nil
	default:
	}
	ctx, cancel := toTheEnd(ctx)
	defer cancel()
	err := i.cancelJob(ctx, c, j)
	if errors.Is(err, qmp.ErrClosed) {
		return nil // whoever connects next cancels it
	}
	return err
}

// chain is a drive's nodes from the newest layer down.
func (i *instance) chain(ctx context.Context, c *qmp.Client, n int) ([]qmp.Node, error) {
	tops, err := i.tops(ctx, c)
	if err != nil {
		return nil, err
	}
	all, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var chain []qmp.Node
	at := slices.IndexFunc(all, func(o qmp.Node) bool { return o.Name == tops[device(n)].Node })
	for at >= 0 && len(chain) <= len(all) {
		chain = append(chain, all[at])
		below := all[at].Backing
		if below == "" {
			return chain, nil
		}
		// Each layer has two nodes, one for its format and one for its file.
		at = slices.IndexFunc(all, func(o qmp.Node) bool { return o.Described == below && o.Driver != "file" })
	}
	return nil, fmt.Errorf("the chain of drive %s breaks off", i.m.Drives[n].Serial)
}

// tops looks through the node that QEMU puts on top of a drive that is being flattened.
func (i *instance) tops(ctx context.Context, c *qmp.Client) (map[string]qmp.Top, error) {
	tops, err := c.Tops(ctx)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := range i.m.Drives {
		if j := i.jobs[jobPrefix+device(n)]; j != nil && tops[device(n)].Node == filterOf(n) {
			tops[device(n)] = qmp.Top{Node: j.top, File: j.file}
		}
	}
	return tops, nil
}

// dropUnused closes the layers of a drive that it no longer lies on. Those that QEMU has opened by itself it closes by itself.
func (i *instance) dropUnused(ctx context.Context, c *qmp.Client, n int) error {
	chain, err := i.chain(ctx, c, n)
	if err != nil {
		return err
	}
	all, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	var unused []string
	for _, o := range all {
		ours := o.Name == node(n) || strings.HasPrefix(o.Name, node(n)+".")
		if ours && !slices.ContainsFunc(chain, func(in qmp.Node) bool { return in.Name == o.Name }) {
			unused = append(unused, o.Name)
		}
	}
	// The newest first: each holds the one below.
	slices.SortFunc(unused, func(a, b string) int { return layerNumber(b) - layerNumber(a) })
	var errs []error
	for _, name := range unused {
		errs = append(errs, c.DropNode(ctx, name))
	}
	return errors.Join(errs...)
}
