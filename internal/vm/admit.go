package vm

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"banger/api"
)

// overhead is what a VMM takes besides the guest's memory: QEMU's translated code (tb-size) and its own heap.
const overhead = (128 + 64) << 20

// admit refuses a start that the host's free memory cannot bear, before the OOM killer chooses somebody.
func (s *Service) admit(memoryBytes int64) error {
	m := memoryOf()
	if need := memoryBytes + overhead; m.available > 0 && need > m.available {
		return api.Errorf(api.CodeExhausted, "not enough memory: the VM needs up to %d MiB, and the host has %d MiB available", need>>20, m.available>>20).
			WithHint("banger vm stop NAME   # or start with less: --memory %dM", max(64, (m.available-overhead)>>20))
	}
	return nil
}

type memory struct{ total, available int64 }

// memoryOf reads /proc/meminfo; zero where it cannot be read, and nothing is refused then.
func memoryOf() memory {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return memory{}
	}
	defer f.Close()
	var m memory
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, rest, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch key {
		case "MemTotal":
			m.total = kib << 10
		case "MemAvailable":
			m.available = kib << 10
		}
	}
	return m
}
