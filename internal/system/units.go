package system

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host/verb"
)

// DaemonUnit runs the daemon.
const DaemonUnit = "bangerd.service"

// The units, in the order in which they are started.
const (
	rootUnit   = "bangerd-root.service"
	daemonUnit = DaemonUnit
	vmsUnit    = "bangerd-vms.service"
)

func unitNames() []string { return []string{rootUnit, daemonUnit, vmsUnit} }

// wanted are the names of the units that there are to be.
func (o Options) wanted(texts map[string]string) []string {
	var names []string
	for _, n := range unitNames() {
		if _, ok := texts[n]; ok {
			names = append(names, n)
		}
	}
	return names
}

// texts are the units' files.
func (o Options) texts() (map[string]string, error) {
	t := map[string]string{daemonUnit: o.daemon(), vmsUnit: o.vms()}
	if o.Kind == Helped {
		text, err := o.helper()
		if err != nil {
			return nil, err
		}
		t[rootUnit] = text
	}
	for name, text := range t {
		if strings.ContainsAny(text, "%\x00") {
			return nil, api.Errorf(api.CodeInvalid, "%s would hold a '%%', which means something else to systemd", name)
		}
	}
	return t, nil
}

// program is where a unit finds one.
func (o Options) program(name string) string {
	if o.Kind == User {
		return filepath.Join(o.Programs, name)
	}
	return filepath.Join(programDir, name)
}

// shared is what all that start VMMs need: systemd must leave them alone, whatever becomes of the service (systemd.kill(5),
// systemd.service(5)). One VMM that the kernel ends for want of memory is no reason to end the others; a VMM is many threads.
const shared = `KillMode=process
SendSIGKILL=no
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
UMask=0077
`

// unneeded are capabilities that a daemon which is root, and builds images, has no use for.
const unneeded = "CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_BLOCK_SUSPEND CAP_IPC_OWNER CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE " +
	"CAP_SYSLOG CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_PACCT CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM"

// needed is what bangerd-root keeps for itself.
func needed() string {
	var names []string
	for _, c := range verb.Capabilities() {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func (o Options) daemon() string {
	var b strings.Builder
	b.WriteString("[Unit]\nDescription=banger's daemon\n")
	switch o.Kind {
	case Helped:
		fmt.Fprintf(&b, "After=network.target %s\nWants=%s\n", rootUnit, rootUnit)
	case Root:
		b.WriteString("After=network.target\n")
	}
	fmt.Fprintf(&b, "\n[Service]\nType=notify\nExecStart=%s", quote(o.program("bangerd")))
	if o.Kind != User {
		fmt.Fprintf(&b, " --state-dir %s --runtime-dir %s", config.SystemState, config.SystemRuntime)
	}
	b.WriteString("\n" + shared + "Restart=on-failure\nRestartSec=200ms\nTimeoutStopSec=90\n")
	if o.Kind == Helped {
		fmt.Fprintf(&b, "User=%s\n", o.User.Username)
		if o.kvmGroup() {
			b.WriteString("SupplementaryGroups=kvm\n")
		}
	}
	if o.Kind != User {
		b.WriteString("OOMScoreAdjust=-500\nStateDirectory=banger\nStateDirectoryMode=0711\nRuntimeDirectory=banger\nRuntimeDirectoryMode=0711\nRuntimeDirectoryPreserve=yes\n")
	}
	if o.Kind == Root {
		fmt.Fprintf(&b, "CapabilityBoundingSet=~%s\n", unneeded)
	}
	b.WriteString(o.install())
	return b.String()
}

func (o Options) helper() (string, error) {
	c := o.Config
	var b strings.Builder
	fmt.Fprintf(&b, "[Unit]\nDescription=banger: what only root may do, for %s's daemon\n\n[Service]\nType=notify\n", o.User.Username)
	fmt.Fprintf(&b, "ExecStart=%s --socket %s --uid %s --gid %s --state-dir %s --bridge %s --uid-base %d --uid-count %d --jails %s",
		quote(o.program("bangerd-root")), config.SystemRootSocket, o.User.Uid, o.User.Gid, config.SystemState, c.Bridge, c.UIDBase, c.UIDCount, filepath.Join(config.SystemRootState, "jails"))
	if c.Explicit("subnet") {
		b.WriteString(" --subnet " + c.Subnet)
	}
	if c.DNSAddress != "bridge" && !strings.HasPrefix(c.DNSAddress, ":") {
		address := c.DNSAddress
		if !strings.Contains(address, ":") {
			address += ":53"
		}
		b.WriteString(" --dns " + address)
	}
	for _, p := range [][2]string{{"firecracker", c.FirecrackerBin}, {"jailer", c.JailerBin}} {
		if c.Explicit(p[0]+"_bin") && p[1] != "auto" {
			fmt.Fprintf(&b, " --%s %s", p[0], quote(p[1]))
		}
	}
	if uid, err := strconv.Atoi(o.User.Uid); err != nil || uid == 0 {
		return "", api.Errorf(api.CodeInvalid, "%s is root", o.User.Username).WithHint("sudo banger system install --root")
	}
	b.WriteString("\n" + shared + "Restart=always\nRestartSec=200ms\nRuntimeDirectory=banger-root\nRuntimeDirectoryMode=0755\nRuntimeDirectoryPreserve=yes\n")
	fmt.Fprintf(&b, "CapabilityBoundingSet=%s\nNoNewPrivileges=yes\n", needed())
	b.WriteString(o.install())
	return b.String(), nil
}

// vms suspends or stops all VMs when the host goes down: units are stopped in the reverse of their order, so this comes before the daemon and
// before the network. The unit counts as started while VMs are still being started, and if none can be: systemd runs ExecStop for
// nothing less (systemd.service(5)), and who waits for multi-user.target need not wait for VMs.
func (o Options) vms() string {
	after := daemonUnit
	if o.Kind != User {
		after += " network-online.target network.target"
	}
	return fmt.Sprintf(`[Unit]
Description=banger's VMs, as the host goes down
After=%s

[Service]
Type=exec
RemainAfterExit=yes
ExecStart=-%s system boot
ExecStop=%s system shutdown
TimeoutStopSec=%d
KillMode=process
`, after, quote(o.program("banger")), quote(o.program("banger")), int(o.Config.ShutdownTimeout.Seconds())+30) + o.runAs() + o.install()
}

func (o Options) runAs() string {
	if o.Kind == Helped {
		return "User=" + o.User.Username + "\n"
	}
	return ""
}

func (o Options) install() string {
	if o.Kind == User {
		return "\n[Install]\nWantedBy=default.target\n"
	}
	return "\n[Install]\nWantedBy=multi-user.target\n"
}

// quote is for a path with a space (systemd.service(5), "Command lines").
func quote(path string) string {
	if !strings.ContainsAny(path, " \t\"'\\$") {
		return path
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`).Replace(path) + `"`
}
