package firecracker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
	"banger/internal/hypervisor/kvm"
	"banger/internal/loud"
)

// theLab is what the guests of these tests boot from.
var theLab hypervisortest.Lab

func TestMain(m *testing.M) { os.Exit(theLab.Main(m)) }

func needFirecracker(t testing.TB) *local.Host {
	t.Helper()
	h := local.New()
	for _, name := range []string{"firecracker", "jailer"} {
		if _, err := h.LookPath(name); err != nil {
			loud.SkipOutsideLab(t, "%v", err)
		}
	}
	if _, err := os.Stat("/dev/kvm"); err != nil || os.Geteuid() != 0 || os.Getenv("LAB") == "" {
		loud.SkipOutsideLab(t, "this is not the laboratory: it takes root and a KVM that works (make lab)")
	}
	return h
}

// bench is what the machines of one test have in common: a daemon's state directory.
type bench struct {
	t     testing.TB
	state string
}

func newBench(t testing.TB) *bench { return &bench{t, hypervisortest.ShortDir(t)} }

func (b *bench) hypervisor() *Hypervisor {
	b.t.Helper()
	h := needFirecracker(b.t)
	o := Options{Host: h, KVM: kvm.New(), Paths: config.Paths{State: b.state}, Log: slog.New(slog.NewTextHandler(testLog{b.t}, nil))}
	attachTo(&o, h)
	return New(o)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

func TestConformance(t *testing.T) {
	needFirecracker(t)
	b := newBench(t)
	hypervisortest.Run(t, func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine) {
		return b.hypervisor(), layered(t, theLab.Machine(t))
	}, layer)
}

// TestMemoryOfTwoPieces: what does not fit below the gap for devices lies above 4 GiB, and is another piece of Firecracker's memory; of 6 GiB
// both pieces have the same size.
func TestMemoryOfTwoPieces(t *testing.T) {
	needFirecracker(t)
	for _, mib := range []int64{3<<10 + 256, 6 << 10} {
		t.Run(fmt.Sprint(mib, " MiB"), func(t *testing.T) {
			b := newBench(t)
			hypervisortest.Thaws(t, func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine) {
				m := layered(t, theLab.Machine(t))
				m.MemoryBytes = mib << 20
				return b.hypervisor(), m
			}, layer)
		})
	}
}

func bounded(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
