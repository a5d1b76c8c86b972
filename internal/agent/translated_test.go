package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	agentclient "banger/internal/guest"
	"banger/internal/hypervisor"
)

// BenchmarkTranslated counts the guest's instructions that QEMU translates in a new clone, and in a fork of one, where translating is
// most of what a start costs: the same on a busy machine as on an idle one. BANGER_TEST_TRANSLATED names a directory
// that gets QEMU's logs, each with the kernel's symbols.
func BenchmarkTranslated(b *testing.B) {
	logs := short(b)
	qemu := filepath.Join(logs, "qemu")
	put(b, qemu, "#!/bin/sh\ncase \"$*\" in *-incoming*) exec qemu-system-x86_64 -d in_asm -D "+logs+"/%d.log \"$@\";; esac\nexec qemu-system-x86_64 \"$@\"\n", 0o755)
	who := identity(b)
	f := newFurnishedFreezer(b, qemu, agentapi.Release{WorkDisk: who.WorkDisk, AuthorizedKeys: who.AuthorizedKeys})
	b.Run("clone", func(b *testing.B) {
		f.translated(b, logs, who, func(frozen hypervisor.Frozen) *vm {
			return f.thaw("c", "52:54:00:00:00:77", frozen, f.base.Drives)
		}, f.frozen)
	})
	b.Run("fork", func(b *testing.B) {
		source := f.thaw("c", "52:54:00:00:00:77", f.frozen, f.base.Drives)
		source.personalise(who)
		source.sh("true")
		time.Sleep(1500 * time.Millisecond)
		below := source.m.Drives
		as := who
		as.WorkDisk = nil
		as.Thawed, as.Hostname, as.MachineID = agentapi.ThawedFork, "other", "0123456789abcdef0123456789abcdef"
		as.Network = &agentapi.Network{MAC: "52:54:00:00:00:78", Address: "192.0.2.9/24", Gateway: "192.0.2.1", Resolvers: []string{"192.0.2.1"}}
		frozen := source.freeze(false)
		f.translated(b, logs, as, func(frozen hypervisor.Frozen) *vm {
			return f.thaw("d", "52:54:00:00:00:78", frozen, below)
		}, frozen)
	})
}

// translated counts from a thaw to the second program.
func (f *freezer) translated(b *testing.B, logs string, who agentapi.Personalise, thaw func(hypervisor.Frozen) *vm, frozen hypervisor.Frozen) {
	var lag agentclient.Lag
	var told *agentclient.Introduction
	frozen.First = func() []byte {
		who.Time = time.Now()
		told = lag.NewIntroduction(who)
		return told.Message()
	}
	v := thaw(frozen)
	log := filepath.Join(logs, fmt.Sprintf("%d.log", v.i.Process().PID))
	dir := os.Getenv("BANGER_TEST_TRANSLATED")
	if dir != "" {
		dir = filepath.Join(dir, filepath.Base(b.Name()))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			b.Fatal(err)
		}
	}
	mark := func(what string) {
		data, err := os.ReadFile(log)
		if err != nil {
			b.Fatal(err)
		}
		n := bytes.Count(data, []byte("\n0x"))
		b.ReportMetric(float64(n), what)
		if dir != "" {
			put(b, filepath.Join(dir, what), fmt.Sprint(len(data)), 0o600)
			put(b, filepath.Join(dir, "log"), string(data), 0o600)
		}
	}
	true_ := func() {
		if _, err := v.ExecWait(bounded(b), api.ExecSpec{Argv: []string{"true"}, Stdin: true}); err != nil {
			b.Fatal(err)
		}
	}
	answer, err := v.i.Greeted(bounded(b))
	if err != nil {
		b.Fatal(err)
	}
	mark("0-greeted")
	words, err := answer(bounded(b))
	if err == nil {
		_, _, err = v.Introduced(&lag, told, words)
	}
	if err != nil {
		b.Fatal(err)
	}
	mark("1-personalised")
	true_()
	mark("2-ran")
	time.Sleep(1500 * time.Millisecond) // what comes by itself; nothing waits for it
	mark("3-settled")
	true_()
	mark("4-ran-again")
	if dir != "" {
		res, err := v.ExecWait(bounded(b), api.ExecSpec{Argv: []string{"cat", "/proc/kallsyms"}, OutputLimitBytes: 64 << 20})
		if err != nil {
			b.Fatal(err)
		}
		put(b, filepath.Join(dir, "kallsyms"), res.Stdout, 0o600)
	}
	b.ReportMetric(0, "ns/op")
}
