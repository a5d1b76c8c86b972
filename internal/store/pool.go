package store

import (
	"context"
	"encoding/json"
	"errors"

	"banger/api"
)

// IsFree reports whether no VM has a name, nor a client id that is not empty.
func (s *Store) IsFree(ctx context.Context, name, clientID string) (bool, error) {
	var n int
	err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM vms WHERE name=? OR client_id=?`, name, null(clientID)).Scan(&n)
	return n == 0, mapError(err)
}

// TakeVM makes a clone that waits in the pool somebody's, in one transaction: fn changes its record, request is what the
// client asked for (see InsertVM), and events follow that it was created. The code is conflict when it is in the pool no more,
// already_exists when its new name or client id belong to another by now.
func (s *Store) TakeVM(ctx context.Context, id, request string, fn func(*api.VM) []api.Event) (api.VM, error) {
	var vm api.VM
	err := s.tx(ctx, func(t *tx) error {
		var err error
		if vm, err = t.byID(ctx, id); err != nil {
			return err
		}
		if vm.State != api.StatePooled || !vm.Ready {
			return api.Errorf(api.CodeConflict, "clone %s is in the pool no more", id)
		}
		events := fn(&vm)
		record, err := json.Marshal(vm)
		if err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, `UPDATE vms SET name=?, client_id=?, state=?, create_spec=?, record=? WHERE id=?`,
			vm.Name, null(vm.ClientID), vm.State, request, string(record), id); err != nil {
			return mapError(err)
		}
		return t.addEvents(ctx, vm, append([]api.Event{{Kind: "vm.created"}}, events...)...)
	})
	if errors.Is(err, errTaken) {
		err = api.Errorf(api.CodeExists, "the name %q or the client id %q belong to another VM by now", vm.Name, vm.ClientID)
	}
	return vm, err
}
