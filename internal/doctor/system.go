package doctor

import (
	"strings"

	"banger/api"
)

// system: banger is written and tested for Linux on x86-64; Debian 12 is where every test runs.
func (o Options) system() api.Check {
	kernel := strings.TrimSpace(o.text("/proc/sys/kernel/osrelease"))
	if o.Machine.OS != "linux" || o.Machine.Arch != "amd64" {
		return fail("system", "", "banger runs on linux/amd64, this is %s/%s", o.Machine.OS, o.Machine.Arch)
	}
	name := "unknown distribution"
	for line := range strings.Lines(o.text("/etc/os-release")) {
		if v, found := strings.CutPrefix(line, "PRETTY_NAME="); found {
			name = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ok("system", "%s, kernel %s", name, kernel)
}

// asThisUser takes the sudo from a hint for root, who may not have it installed.
func (o Options) asThisUser(hint string) string {
	if o.root() {
		return strings.ReplaceAll(hint, "sudo ", "")
	}
	return hint
}

// program is one that banger starts on the host.
type program struct {
	name    string
	need    string // what does not work without it
	without string // verdict when it is missing
	pkg     string // Debian 12's package
}

// programs lists what banger starts; QEMU itself is the hypervisor's to find.
func (o Options) programs() []api.Check {
	list := []program{
		{"qemu-img", "disks", api.VerdictFail, "qemu-utils"},
		{"mke2fs", "building and importing images", api.VerdictFail, "e2fsprogs"},
		{"fakeroot", "building and importing images", api.VerdictFail, "fakeroot"},
		{"mmdebstrap", "image build debian", api.VerdictWarn, "mmdebstrap"},
		{"dpkg-deb", "kernel build debian", api.VerdictWarn, "dpkg"},
		{"apt-get", "kernel build debian", api.VerdictWarn, "apt"},
		{"busybox", "image build minimal", api.VerdictWarn, "busybox-static"},
		{"ssh", "vm ssh", api.VerdictWarn, "openssh-client"},
		{"passt", "--net user", api.VerdictWarn, "passt"},
	}
	if o.root() {
		list = append(list, program{"nft", "--net bridge", api.VerdictWarn, "nftables"})
	}
	var checks []api.Check
	for _, p := range list {
		path, err := o.Host.LookPath(p.name)
		if err != nil {
			checks = append(checks, api.Check{Name: p.name, Verdict: p.without,
				Detail: "not installed; needed for " + p.need,
				Hint:   o.sudo("apt-get install --no-install-recommends " + p.pkg)})
			continue
		}
		checks = append(checks, ok(p.name, "%s", path))
	}
	return checks
}
