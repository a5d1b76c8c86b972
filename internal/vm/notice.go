package vm

import (
	"os"
	"strings"

	"banger/internal/durable"
	"banger/internal/hypervisor"
	"banger/internal/operation"
)

// sayEmulated tells, with the first start after each boot of the host, that guests are emulated, why,
// and what would mend it. doctor and info say it at any time.
func (st *starts) sayEmulated(op *operation.Operation, f hypervisor.Features) {
	if f.Accel != "tcg" {
		return
	}
	boot := st.host.BootID()
	if told, err := os.ReadFile(st.paths.ToldBoot()); err == nil && strings.TrimSpace(string(told)) == boot {
		return
	}
	op.Warn("guests run in software emulation, several times slower than with KVM: %s", f.AccelReason)
	if f.AccelHint != "" {
		op.Warn("what would mend it: %s", f.AccelHint)
	}
	if err := durable.WriteFile(st.paths.ToldBoot(), []byte(boot+"\n"), 0o600); err != nil {
		st.log.Warn("cannot record that emulation was explained", "error", err)
	}
}
