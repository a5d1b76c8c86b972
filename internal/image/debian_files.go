package image

// overlayFile is a file, or a symbolic link when link is set.
type overlayFile struct {
	mode int64
	text string
	link string
}

// debianFiles are laid over the packages' own. Each has its reason.
func debianFiles() map[string]overlayFile {
	text := func(s string) overlayFile { return overlayFile{mode: 0o644, text: s} }
	files := map[string]overlayFile{
		// Trap 34. An included file comes first, and in sshd the first value counts. StrictModes stays
		// on; the agent mends the modes of /root instead. dev's home is on the work disk too.
		"etc/ssh/sshd_config.d/10-banger.conf": text(`PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /root/.ssh/authorized_keys
HostKey /etc/ssh/ssh_host_ed25519_key
Match User dev
    AuthorizedKeysFile /home/dev/.ssh/authorized_keys
Match all
`),
		// Until the agent has put the host key there, sshd cannot start, and must not count as failed.
		"etc/systemd/system/ssh.service.d/banger.conf": text(`[Unit]
ConditionPathExists=/etc/ssh/ssh_host_ed25519_key
`),
		"etc/sudoers.d/dev": {mode: 0o440, text: "dev ALL=(ALL:ALL) NOPASSWD: ALL\n"},
		// Nothing on the root disk identifies one machine; the work disk outlives the journal anyway.
		"etc/systemd/journald.conf.d/banger.conf": text(`[Journal]
Storage=volatile
RuntimeMaxUse=32M
`),
		// The host forces a stop after 10 s in any case.
		"etc/systemd/system.conf.d/banger.conf": text(`[Manager]
DefaultTimeoutStopSec=8s
`),
		"etc/default/locale": text("LANG=C.UTF-8\n"),
		"etc/locale.conf":    text("LANG=C.UTF-8\n"),
		"etc/hosts":          text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
		"etc/fstab":          text(""), // the agent mounts everything; a line here would make systemd wait (trap 45)
	}
	for _, unit := range maskedUnits() {
		files["etc/systemd/system/"+unit] = overlayFile{link: "/dev/null"}
	}
	// The device keeps the name eth0, whatever slot it is in.
	files["etc/systemd/network/99-default.link"] = overlayFile{link: "/dev/null"}
	// It would start a login on whatever console the kernel has; banger's console is a log.
	files["etc/systemd/system-generators/systemd-getty-generator"] = overlayFile{link: "/dev/null"}
	return files
}

// maskedUnits must not run in a guest.
func maskedUnits() []string {
	return []string{
		// Timers with Persistent= all fire at once in a guest whose clock was just set.
		"apt-daily.timer", "apt-daily.service", "apt-daily-upgrade.timer", "apt-daily-upgrade.service",
		"man-db.timer", "fstrim.timer", "logrotate.timer", "e2scrub_all.timer", "e2scrub_reap.service", "dpkg-db-backup.timer",
		// Logins on devices that are not there, or are a log (trap 45: 90 s of waiting each).
		"getty@tty1.service", "serial-getty@ttyS0.service", "serial-getty@hvc0.service", "console-getty.service",
		// Modules and mounts that nothing in such a guest asks for; the kernel still loads each at first use.
		// With the next line this took systemd's part of a boot under emulation from 8.9 to 4.0 s.
		"modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@loop.service",
		"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-pstore.service",
		"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
		// A seed kept on disk is the same in every clone; the agent brings entropy.
		"systemd-random-seed.service",
	}
}
