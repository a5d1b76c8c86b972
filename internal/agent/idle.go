package agent

import "os"

// idleSettings keep an idle guest from waking for nothing: under emulation each wake costs a quarter of a millisecond, and a
// host has a hundred such guests. From the kernel's Documentation/admin-guide/sysctl/vm.rst:
var idleSettings = [...]struct{ path, value string }{
	{"/proc/sys/vm/compaction_proactiveness", "0"}, // kcompactd looks every half second whether to defragment memory beforehand
	{"/proc/sys/vm/stat_interval", "10"},           // seconds between updates of statistics, by default 1
}

// settleIdle applies them; a kernel that knows one of them not does without.
func settleIdle() {
	for _, s := range idleSettings {
		_ = os.WriteFile(s.path, []byte(s.value), 0o644) //nolint:gosec // it exists, or stays missing
	}
}
