package vmm

import (
	"fmt"
	"strconv"
	"strings"

	"banger/internal/hypervisor"
)

// Differing says what a state was frozen with that is otherwise now; empty if nothing is.
func Differing(was, is hypervisor.Stamp) string {
	now := map[string]string{}
	for _, f := range is {
		now[f.Name] = f.Value
	}
	var out []string
	for _, f := range was {
		if v, ok := now[f.Name]; !ok || v != f.Value {
			out = append(out, fmt.Sprintf("%s %q (now %q)", f.Name, f.Value, v))
		}
		delete(now, f.Name)
	}
	for _, f := range is {
		if v, ok := now[f.Name]; ok {
			out = append(out, fmt.Sprintf("no %s (now %q)", f.Name, v))
		}
	}
	return strings.Join(out, ", ")
}

// Devices are the facts of a stamp that follow from the machine alone.
func Devices(m *hypervisor.Machine) hypervisor.Stamp {
	drives := make([]string, 0, len(m.Drives))
	for _, d := range m.Drives {
		mode := "rw"
		if d.ReadOnly {
			mode = "ro"
		}
		drives = append(drives, d.Serial+":"+mode)
	}
	nic := "none"
	if m.NIC != nil {
		nic = string(m.NIC.Kind)
	}
	return hypervisor.Stamp{
		{Name: "cpus", Value: strconv.Itoa(m.CPUs)},
		{Name: "memory", Value: strconv.FormatInt(m.MemoryBytes, 10)},
		{Name: "drives", Value: strings.Join(drives, " ")},
		{Name: "network", Value: nic},
	}
}
