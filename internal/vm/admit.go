package vm

import (
	"bufio"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/template"
)

// overhead is what a VMM takes besides the guest's memory: QEMU's translated code (tb-size) and its own heap.
const overhead = (128 + 64) << 20

// admit refuses a start of so many VMs that the host's free memory cannot bear, before the OOM killer chooses somebody.
// What is in the pool makes room first.
func (st *starts) admit(ctx context.Context, memoryBytes int64, count int) error {
	for {
		m := st.memory()
		need := int64(count) * (memoryBytes + overhead)
		if m.Available == 0 || need <= m.Available {
			return nil
		}
		if given, err := st.giveUp(ctx); err != nil || !given {
			return errors.Join(err, tooMuch(need, m.Available, count))
		}
	}
}

func tooMuch(need, available int64, count int) error {
	if count > 1 {
		return api.Errorf(api.CodeExhausted, "not enough memory: %d VMs need up to %d MiB, and the host has %d MiB available", count, need>>20, available>>20).
			WithHint("banger vm stop NAME")
	}
	return api.Errorf(api.CodeExhausted, "not enough memory: the VM needs up to %d MiB, and the host has %d MiB available", need>>20, available>>20).
		WithHint("banger vm stop NAME   # or start with less: --memory %dM", max(64, (available-overhead)>>20))
}

// memoryOf reads /proc/meminfo and /proc/pressure/memory; zero where they cannot be read, and nothing is refused then.
func memoryOf() template.Memory {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return template.Memory{}
	}
	defer f.Close()
	var m template.Memory
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, rest, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch key {
		case "MemTotal":
			m.Total = kib << 10
		case "MemAvailable":
			m.Available = kib << 10
		}
	}
	if text, err := os.ReadFile("/proc/pressure/memory"); err == nil { // a kernel without PSI has none
		_, rest, _ := strings.Cut(string(text), "avg10=")
		percent, _, _ := strings.Cut(rest, " ")
		m.Pressure, _ = strconv.ParseFloat(percent, 64)
	}
	return m
}
