package vmm

import (
	"fmt"
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
