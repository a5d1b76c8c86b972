package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"banger/api"
)

// Taken is what the VMs that exist already hold, as seen by the transaction that adds one more.
type Taken struct {
	Names map[string]bool
	IPs   []netip.Addr
	UIDs  []int
}

// InsertVM reserves everything a new VM needs in one transaction: complete fills in
// what must differ from every other VM. request is what the client asked for; when
// a VM with the same client id and the same request exists it is returned
// instead, with created false, and another request is refused with already_exists.
func (s *Store) InsertVM(ctx context.Context, vm api.VM, request string, complete func(*api.VM, Taken) error) (out api.VM, created bool, err error) {
	err = s.tx(ctx, func(t *tx) error {
		if vm.ClientID != "" {
			earlier, asked, err := t.byClientID(ctx, vm.ClientID)
			if err != nil {
				return err
			}
			if earlier != nil && asked != request {
				return api.Errorf(api.CodeExists, "client id %q belongs to VM %s, which was created with another spec", vm.ClientID, earlier.Name).
					WithHint("banger vm show %s", earlier.Name)
			}
			if earlier != nil {
				out = *earlier
				return nil
			}
		}
		if out, err = t.insertVM(ctx, vm, request, complete); err != nil {
			return err
		}
		created = true
		return nil
	})
	return out, created, err
}

// InsertVMs reserves what several new VMs need, all of them or none.
func (s *Store) InsertVMs(ctx context.Context, vms []api.VM, complete func(*api.VM, Taken) error) ([]api.VM, error) {
	out := make([]api.VM, len(vms))
	err := s.tx(ctx, func(t *tx) (err error) {
		for n, vm := range vms {
			if out[n], err = t.insertVM(ctx, vm, "", complete); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (t *tx) insertVM(ctx context.Context, vm api.VM, request string, complete func(*api.VM, Taken) error) (api.VM, error) {
	taken, err := t.taken(ctx)
	if err != nil {
		return vm, err
	}
	if err := complete(&vm, taken); err != nil {
		return vm, err
	}
	if taken.Names[vm.Name] {
		return vm, api.Errorf(api.CodeExists, "a VM named %q exists already", vm.Name).WithHint("banger vm show %s", vm.Name)
	}
	if vm.Snapshots == nil {
		vm.Snapshots = []string{}
	}
	if vm.Workspaces == nil {
		vm.Workspaces = []api.Workspace{}
	}
	record, err := json.Marshal(vm)
	if err != nil {
		return vm, err
	}
	_, err = t.ExecContext(ctx, `INSERT INTO vms (id, name, client_id, state, guest_ip, uid, image, kernel, create_spec, record)
		VALUES (?,?,?,?,?,?,?,?,?,?)`, vm.ID, vm.Name, null(vm.ClientID), vm.State, addressKey(vm), nullInt(vm.Runtime.UID),
		vm.Runtime.ImageDigest, vm.Runtime.KernelDigest, request, string(record))
	if err != nil {
		return vm, fmt.Errorf("cannot record VM %s: %w", vm.Name, err)
	}
	return vm, t.addEvents(ctx, vm, api.Event{Kind: "vm.created"})
}

// UpdateVM changes a VM's record by fn, and adds the events that fn returns, in one
// transaction. An error from fn changes nothing.
//
// fn is called once more, with the record as it was, where the change has to be durable and that shows only then.
func (s *Store) UpdateVM(ctx context.Context, id string, fn func(*api.VM) ([]api.Event, error)) (api.VM, error) {
	vm, err := s.VM(ctx, id)
	if err == nil && fleeting(vm) {
		err = s.txOn(ctx, s.soon, func(t *tx) (err error) {
			vm, err = t.updateVM(ctx, id, func(vm *api.VM) ([]api.Event, error) {
				if !fleeting(*vm) {
					return nil, errLasting
				}
				events, err := fn(vm)
				if err == nil && !fleeting(*vm) {
					err = errLasting
				}
				return events, err
			})
			return err
		})
		if !errors.Is(err, errLasting) {
			return vm, err
		}
	}
	err = s.tx(ctx, func(t *tx) (err error) {
		vm, err = t.updateVM(ctx, id, fn)
		return err
	})
	return vm, err
}

// fleeting reports that nothing of a VM is to survive a crash of the host: one that has been started, and goes with its main
// command, or with its VMM at the latest; and no VMM outlives the host. Losing the last that was written of it changes
// nothing, since what is found of it then is removed. A suspended one lasts, and so does one that never ran.
func fleeting(vm api.VM) bool {
	return vm.Spec.AutoRemove && vm.State != api.StateSuspended && vm.State != api.StateStopped && len(vm.Snapshots) == 0
}

// errLasting sends a change that must be durable back.
var errLasting = errors.New("not fleeting")

// UpdateVMs is UpdateVM for several, all of them or none.
func (s *Store) UpdateVMs(ctx context.Context, ids []string, fn func(*api.VM) ([]api.Event, error)) ([]api.VM, error) {
	out := make([]api.VM, len(ids))
	err := s.tx(ctx, func(t *tx) (err error) {
		for n, id := range ids {
			if out[n], err = t.updateVM(ctx, id, fn); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (t *tx) updateVM(ctx context.Context, id string, fn func(*api.VM) ([]api.Event, error)) (api.VM, error) {
	vm, err := t.byID(ctx, id)
	if err != nil {
		return vm, err
	}
	events, err := fn(&vm)
	if err != nil {
		return vm, err
	}
	record, err := json.Marshal(vm)
	if err != nil {
		return vm, err
	}
	_, err = t.ExecContext(ctx, `UPDATE vms SET name=?, state=?, guest_ip=?, uid=?, image=?, kernel=?, record=? WHERE id=?`,
		vm.Name, vm.State, addressKey(vm), nullInt(vm.Runtime.UID), vm.Runtime.ImageDigest, vm.Runtime.KernelDigest, string(record), id)
	if err != nil {
		return vm, fmt.Errorf("cannot record VM %s: %w", vm.Name, err)
	}
	return vm, t.addEvents(ctx, vm, events...)
}

// addEvents adds the events of a VM. One in the pool is nobody's yet, and nobody hears of it.
func (t *tx) addEvents(ctx context.Context, vm api.VM, events ...api.Event) error {
	if vm.State == api.StatePooled {
		return nil
	}
	for _, e := range events {
		e.VMID, e.Name = vm.ID, vm.Name
		if err := t.addEvent(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// DeleteVM removes a VM's record, and adds events, of which vm.deleted is the last; one that is gone already is no error.
func (s *Store) DeleteVM(ctx context.Context, id string, events ...api.Event) error {
	// One that is lost to a power cut leaves a VM that is being deleted, which the next start completes.
	return s.txOn(ctx, s.soon, func(t *tx) error {
		vm, err := t.byID(ctx, id)
		if api.CodeOf(err) == api.CodeNotFound {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, `DELETE FROM vms WHERE id=?`, id); err != nil {
			return fmt.Errorf("cannot remove the record of VM %s: %w", vm.Name, err)
		}
		return t.addEvents(ctx, vm, append(events, api.Event{Kind: "vm.deleted"})...)
	})
}

// VM reads one record by its whole id.
func (s *Store) VM(ctx context.Context, id string) (api.VM, error) {
	return scanVM(s.db.QueryRowContext(ctx, `SELECT record FROM vms WHERE id=?`, id), id)
}

// FindVM reads one record by id, by name, or by a prefix of at least four characters of
// an id that only one VM has. A name wins over a prefix. Pooled ones are not found.
func (s *Store) FindVM(ctx context.Context, ref string) (api.VM, error) {
	vm, err := scanVM(s.db.QueryRowContext(ctx, `SELECT record FROM vms WHERE (id=? OR name=?) AND state<>'pooled' ORDER BY id=? DESC`, ref, ref, ref), ref)
	if api.CodeOf(err) != api.CodeNotFound || len(ref) < 4 {
		return vm, err
	}
	rows, err := s.vms(ctx, `SELECT record FROM vms WHERE substr(id, 1, ?) = ? AND state<>'pooled' LIMIT 2`, len(ref), ref)
	if err != nil {
		return api.VM{}, err
	}
	switch len(rows) {
	case 1:
		return rows[0], nil
	case 2:
		return api.VM{}, api.Errorf(api.CodeInvalid, "more than one VM's id begins with %q", ref).WithHint("banger vm list --all")
	}
	return api.VM{}, noVM(ref)
}

// VMs reads all records, oldest first.
func (s *Store) VMs(ctx context.Context) ([]api.VM, error) {
	return s.vms(ctx, `SELECT record FROM vms ORDER BY record ->> 'created_at', id`)
}

// VMsIn reads the records of the VMs that are in one of the given states, oldest first; none given: all.
func (s *Store) VMsIn(ctx context.Context, states ...api.State) ([]api.VM, error) {
	if len(states) == 0 {
		return s.VMs(ctx)
	}
	args := make([]any, len(states))
	for i, state := range states {
		args[i] = string(state)
	}
	in := "?" + strings.Repeat(",?", len(states)-1)
	return s.vms(ctx, `SELECT record FROM vms WHERE state IN (`+in+`) ORDER BY record ->> 'created_at', id`, args...) //nolint:gosec // only question marks
}

// CountVMs tells how many VMs are in each state.
func (s *Store) CountVMs(ctx context.Context) (map[api.State]int, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT state, count(*) FROM vms GROUP BY state`)
	if err != nil {
		return nil, mapError(err)
	}
	defer rows.Close()
	counts := map[api.State]int{}
	for rows.Next() {
		var state string
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			return nil, mapError(err)
		}
		counts[api.State(state)] = n
	}
	return counts, mapError(rows.Err())
}

func (s *Store) vms(ctx context.Context, query string, args ...any) ([]api.VM, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, mapError(err)
	}
	defer rows.Close()
	out := []api.VM{}
	for rows.Next() {
		vm, err := scanVM(rows, "")
		if err != nil {
			return nil, err
		}
		out = append(out, vm)
	}
	return out, mapError(rows.Err())
}

func (t *tx) byID(ctx context.Context, id string) (api.VM, error) {
	return scanVM(t.QueryRowContext(ctx, `SELECT record FROM vms WHERE id=?`, id), id)
}

func (t *tx) byClientID(ctx context.Context, clientID string) (*api.VM, string, error) {
	var record, asked string
	err := t.QueryRowContext(ctx, `SELECT record, create_spec FROM vms WHERE client_id=?`, clientID).Scan(&record, &asked)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", nil
	} else if err != nil {
		return nil, "", mapError(err)
	}
	var vm api.VM
	return &vm, asked, json.Unmarshal([]byte(record), &vm)
}

func (t *tx) taken(ctx context.Context) (Taken, error) {
	taken := Taken{Names: map[string]bool{}}
	rows, err := t.QueryContext(ctx, `SELECT name, coalesce(guest_ip,''), coalesce(uid,0) FROM vms`)
	if err != nil {
		return taken, mapError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, ip string
		var uid int
		if err := rows.Scan(&name, &ip, &uid); err != nil {
			return taken, err
		}
		taken.Names[name] = true
		if a, err := netip.ParseAddr(ip); err == nil {
			taken.IPs = append(taken.IPs, a)
		}
		if uid != 0 {
			taken.UIDs = append(taken.UIDs, uid)
		}
	}
	return taken, mapError(rows.Err())
}

func scanVM(row interface{ Scan(...any) error }, ref string) (api.VM, error) {
	var record string
	var vm api.VM
	if err := row.Scan(&record); errors.Is(err, sql.ErrNoRows) {
		return vm, noVM(ref)
	} else if err != nil {
		return vm, mapError(err)
	}
	if err := json.Unmarshal([]byte(record), &vm); err != nil {
		return vm, fmt.Errorf("the record of a VM is damaged: %w", err)
	}
	return vm, nil
}

func noVM(ref string) error {
	return api.Errorf(api.CodeNotFound, "no VM %q", ref).WithHint("banger vm list --all")
}

// addressKey is the address that no two VMs may share: guests in user mode all have the
// same one, each in a network of its own.
func addressKey(vm api.VM) any {
	if vm.Spec.Net != api.NetBridge {
		return nil
	}
	return null(vm.Runtime.GuestIP)
}

func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullInt(n int) any {
	if n == 0 {
		return nil
	}
	return n
}
