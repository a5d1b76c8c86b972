package fake

import (
	"context"
	"fmt"
	"slices"

	"banger/api"
)

// Flatten has nothing to copy: nobody writes a fake guest's disks.
func (i *instance) Flatten(ctx context.Context, serial, _ string) error {
	err := i.ask(ctx, request{Do: doFlatten, Serial: serial}, nil)
	if err == nil && slices.Contains(i.h.behaviour(), flattenFails) {
		err = api.Errorf(api.CodeExhausted, "no space left on the host")
	}
	if err != nil {
		return fmt.Errorf("cannot flatten drive %s of the fake VMM of %s: %w", serial, i.m.ID, err)
	}
	return nil
}
