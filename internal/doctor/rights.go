package doctor

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/config"
)

// rights: what the kernel and the administrator let this user do.
func (o Options) rights() []api.Check {
	if o.root() {
		return []api.Check{o.tun(), o.forwarding()}
	}
	return []api.Check{o.helper(), o.subordinate("/etc/subuid", "uids"), o.subordinate("/etc/subgid", "gids"), o.namespaces(), o.newuidmap()}
}

// helper: what takes root is bangerd-root's, for a daemon that is not. Without it VMs run all the same.
func (o Options) helper() api.Check {
	if o.Rights == api.RightsHelped {
		return ok("bangerd-root", "it serves user %s", o.Machine.User)
	}
	const without = "so VMs have networks of kind user and run under your own uid, by QEMU"
	if o.Refused == "" {
		return ok("bangerd-root", "there is none, %s; sudo banger system install sets it up", without)
	}
	return warn("bangerd-root", "sudo banger system install", "%s, %s", o.Refused, without)
}

// tun: a tap is the root daemon's way to connect a VM.
func (o Options) tun() api.Check {
	fi, err := fs.Stat(o.Machine.Files, "dev/net/tun")
	if err != nil || fi.Mode()&fs.ModeCharDevice == 0 {
		return warn("tun", "modprobe tun", "/dev/net/tun is not there; needed for --net bridge")
	}
	return ok("tun", "/dev/net/tun")
}

func (o Options) forwarding() api.Check {
	switch strings.TrimSpace(o.text("/proc/sys/net/ipv4/ip_forward")) {
	case "1":
		return ok("forwarding", "net.ipv4.ip_forward is on")
	case "0":
		return ok("forwarding", "net.ipv4.ip_forward is off; banger switches it on with the first VM on the bridge, for the bridge only")
	}
	return warn("forwarding", "", "cannot read net.ipv4.ip_forward; VMs on the bridge may not reach beyond this host")
}

// subordinate: mmdebstrap without root gives the new system's users a range of ours.
// The format is that of subuid(5): name or uid, first, count.
func (o Options) subordinate(file, what string) api.Check {
	name := "sub" + what
	for line := range strings.Lines(o.text(file)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || (f[0] != o.Machine.User && f[0] != strconv.Itoa(o.Machine.UID)) {
			continue
		}
		if n, err := strconv.Atoi(f[2]); err == nil && n >= 65536 {
			return ok(name, "%s from %s", f[2], f[1])
		}
	}
	flag := "--add-subuids"
	if what == "gids" {
		flag = "--add-subgids"
	}
	return warn(name, "sudo usermod "+flag+" 100000-165535 "+o.Machine.User,
		"%s gives user %s no 65536 %s; needed for image build debian without root", file, o.Machine.User, what)
}

// namespaces: two switches that distributions have added to the kernel's own.
func (o Options) namespaces() api.Check {
	if strings.TrimSpace(o.text("/proc/sys/kernel/unprivileged_userns_clone")) == "0" {
		return warn("namespaces", "sudo sysctl -w kernel.unprivileged_userns_clone=1", "users may not make user namespaces; needed for image build debian and --net user")
	}
	if strings.TrimSpace(o.text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")) == "1" {
		return warn("namespaces", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", "AppArmor restricts user namespaces; needed for image build debian and --net user")
	}
	if n := strings.TrimSpace(o.text("/proc/sys/user/max_user_namespaces")); n == "0" {
		return warn("namespaces", "sudo sysctl -w user.max_user_namespaces=15000", "no user namespaces are allowed; needed for image build debian and --net user")
	}
	return ok("namespaces", "users may make user namespaces")
}

func (o Options) newuidmap() api.Check {
	path, err := o.Host.LookPath("newuidmap")
	if err != nil {
		return warn("newuidmap", "sudo apt-get install --no-install-recommends uidmap", "not installed; needed for image build debian without root")
	}
	return ok("newuidmap", "%s", path)
}

// directories: what is kept must be ours alone to change.
func (o Options) directories() []api.Check {
	p := o.Config.Paths
	return []api.Check{
		o.directory("state directory", p.State, "state_dir"),
		o.directory("runtime directory", p.Runtime, "runtime_dir"),
	}
}

func (o Options) directory(name, path, key string) api.Check {
	uid, mode, err := o.Machine.Owner(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok(name, "%s (not made yet)", path)
	case err != nil:
		return fail(name, "", "cannot look at %s: %v", path, err)
	case !mode.IsDir():
		return fail(name, "BANGER_"+strings.ToUpper(key)+"=/another/directory banger doctor", "%s is not a directory", path)
	case uid != o.Machine.UID:
		return fail(name, "sudo chown "+strconv.Itoa(o.Machine.UID)+" "+path, "%s belongs to uid %d, not to %d", path, uid, o.Machine.UID)
	case mode.Perm()&0o022 != 0:
		return fail(name, "chmod go-w "+path, "%s can be changed by others (mode %04o)", path, mode.Perm())
	}
	return ok(name, "%s", path)
}

// size is how people read bytes.
func size(n int64) string { return config.FormatSize(n) }
