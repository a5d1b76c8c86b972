package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"banger/internal/durable"
)

const ipForward = "net/ipv4/ip_forward"

// forwardRecord is kept in a file from before we turn forwarding on until it is as it was.
type forwardRecord struct {
	// BootID: forwarding does not outlive a boot, so neither does the record.
	BootID string `json:"boot_id"`
	Was    string `json:"ip_forward"`
	// Others are the forwarding chains of others at that time.
	Others []string `json:"others"`
}

type forwarding struct {
	// close is true when the host forwarded for nobody before us: then it still should not.
	close bool
}

// planForwarding records what ip_forward was before apply sets it.
func (n *Network) planForwarding(ctx context.Context) (forwarding, error) {
	rec, err := n.readForwardRecord()
	if err != nil {
		return forwarding{}, err
	}
	if rec == nil {
		was, err := n.o.Host.Sysctl(ipForward)
		if err != nil || was != "0" {
			return forwarding{}, err
		}
		others, err := n.foreignForwarders(ctx)
		if err != nil {
			return forwarding{}, err
		}
		rec = &forwardRecord{BootID: n.o.Host.BootID(), Was: was, Others: others}
		text, err := json.Marshal(rec)
		if err != nil {
			return forwarding{}, err
		}
		if err := durable.WriteFile(n.o.Paths.ForwardRecord(), append(text, '\n'), 0o600); err != nil {
			return forwarding{}, fmt.Errorf("cannot record the host's ip_forward: %w", err)
		}
		return forwarding{close: true}, nil
	}
	newcomer, err := n.newcomer(ctx, rec)
	return forwarding{close: newcomer == ""}, err
}

// restoreForwarding sets ip_forward back, unless somebody who came after us relies on it by now.
func (n *Network) restoreForwarding(ctx context.Context) error {
	rec, err := n.readForwardRecord()
	if err != nil || rec == nil {
		return err
	}
	newcomer, err := n.newcomer(ctx, rec)
	if err != nil {
		return err
	}
	if newcomer != "" {
		n.o.Log.Info("leaving ip_forward on: somebody else forwards by now", "chain", newcomer)
	} else if err := n.o.Host.SetSysctl(ipForward, rec.Was); err != nil {
		return err
	}
	return os.Remove(n.o.Paths.ForwardRecord())
}

// newcomer names a forwarding chain of another (docker, libvirt, …) that was not there when we
// turned forwarding on; empty if there is none.
func (n *Network) newcomer(ctx context.Context, rec *forwardRecord) (string, error) {
	others, err := n.foreignForwarders(ctx)
	for _, o := range others {
		if !slices.Contains(rec.Others, o) {
			return o, err
		}
	}
	return "", err
}

func (n *Network) foreignForwarders(ctx context.Context) ([]string, error) {
	text, err := n.o.Host.Rules(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range parseChains(text) {
		if c.hook == "forward" && c.ipv4() && !ourTable(c.table) {
			out = append(out, c.family+" "+c.table+" "+c.name)
		}
	}
	return out, nil
}

// readForwardRecord is nil where there is none of this boot.
func (n *Network) readForwardRecord() (*forwardRecord, error) {
	text, err := os.ReadFile(n.o.Paths.ForwardRecord())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var rec forwardRecord
	if err := json.Unmarshal(text, &rec); err != nil || rec.BootID != n.o.Host.BootID() || (rec.Was != "0" && rec.Was != "1") {
		n.o.Log.Debug("dropping an old record of ip_forward", "error", err)
		return nil, os.Remove(n.o.Paths.ForwardRecord())
	}
	return &rec, nil
}
