package config

import "path/filepath"

// SystemState and SystemRuntime are root's directories, where a user who looks for
// root's machines is sent.
const (
	SystemState   = "/var/lib/banger"
	SystemRuntime = "/run/banger"
	// SystemUnit is the unit that runs the daemon of SystemState.
	SystemUnit = "/etc/systemd/system/bangerd.service"
	// SystemRootState is bangerd-root's own: the jails of Firecrackers.
	SystemRootState = "/var/lib/banger-root"
	// SystemRootSocket is where bangerd-root answers; its directory is root's.
	SystemRootSocket = "/run/banger-root/socket"
)

// Paths gives every file and directory that banger keeps, from three roots. Nothing
// else in banger joins file names.
type Paths struct {
	// State holds all that must survive a reboot: /var/lib/banger for root, else
	// $XDG_STATE_HOME/banger.
	State string
	// Runtime holds bangerd.sock and nothing else: /run/banger, else $XDG_RUNTIME_DIR/banger.
	Runtime string
	// Config holds config.toml: /etc/banger, else $XDG_CONFIG_HOME/banger.
	Config string
	// SSH holds the user's key for guests and known_hosts (0700).
	SSH string
	// RootSocket is where bangerd-root answers, for a daemon that is not root.
	RootSocket string
}

func (p Paths) Socket() string     { return filepath.Join(p.Runtime, "bangerd.sock") }
func (p Paths) ConfigFile() string { return filepath.Join(p.Config, "config.toml") }
func (p Paths) Database() string   { return filepath.Join(p.State, "banger.db") }
func (p Paths) DaemonLog() string  { return filepath.Join(p.State, "bangerd.log") }

// Lock is held by the one daemon of this state directory for as long as it runs.
func (p Paths) Lock() string { return filepath.Join(p.State, "bangerd.lock") }

// FirecrackerVerdict keeps what was found out about Firecracker, and of what.
func (p Paths) FirecrackerVerdict() string { return filepath.Join(p.State, "firecracker.json") }

// AccelVerdict keeps what the KVM probe found, stamped with the host's boot id.
func (p Paths) AccelVerdict() string { return filepath.Join(p.State, "accel.json") }

// Launcher is the program that QEMU is started by where the host's kernel wants one.
func (p Paths) Launcher() string { return filepath.Join(p.State, "launcher") }

// ToldBoot holds the boot id of the host for which the user was told that guests are emulated.
func (p Paths) ToldBoot() string { return filepath.Join(p.State, "told-boot") }

// Reserve takes up a little room, to be given back when a delete must be recorded on a disk that is full.
func (p Paths) Reserve() string { return filepath.Join(p.State, "reserve") }

// Images, Kernels and Initramfs hold sealed objects in directories named by digest.
func (p Paths) Images() string    { return filepath.Join(p.State, "images") }
func (p Paths) Kernels() string   { return filepath.Join(p.State, "kernels") }
func (p Paths) Initramfs() string { return filepath.Join(p.State, "initramfs") }

// Temp is for half-made objects: same file system as the sealed ones, emptied at each start.
func (p Paths) Temp() string { return filepath.Join(p.State, "tmp") }

// ForwardRecord says what the host's ip_forward was before banger turned it on; there only as long as it is.
func (p Paths) ForwardRecord() string { return filepath.Join(p.State, "ip_forward.json") }

// Templates holds a directory per frozen ready machine.
func (p Paths) Templates() string { return filepath.Join(p.State, "templates") }

// Template is the paths of one template.
func (p Paths) Template(id string) TemplatePaths {
	return TemplatePaths{filepath.Join(p.Templates(), id)}
}

// Layers holds the disks' layers that VMs have in common, each a file named by its id, 0444 in 0711.
func (p Paths) Layers() string { return filepath.Join(p.State, "layers") }

// Layer is the file of one layer.
func (p Paths) Layer(id string) string { return filepath.Join(p.Layers(), id) }

// Snapshots holds a directory per snapshot of a VM: its frozen memory. It is complete when it has this name; it is
// written with ".new" behind it.
func (p Paths) Snapshots() string            { return filepath.Join(p.State, "snapshots") }
func (p Paths) Snapshot(id string) string    { return filepath.Join(p.Snapshots(), id) }
func (p Paths) SnapshotNew(id string) string { return filepath.Join(p.Snapshots(), id+".new") }

// Jails holds the jails of VMMs, each while its VMM runs; root's alone.
func (p Paths) Jails() string { return filepath.Join(p.State, "jails") }

// VMs holds a directory per VM, and one per template that is being built.
func (p Paths) VMs() string { return filepath.Join(p.State, "vms") }

// VM is the paths of one VM. Its directory belongs to the daemon; Private within it to the VMM.
func (p Paths) VM(id string) VMPaths { return VMPaths{Dir: filepath.Join(p.VMs(), id)} }

func (p Paths) SSHKey() string     { return filepath.Join(p.SSH, "id_ed25519") }
func (p Paths) KnownHosts() string { return filepath.Join(p.SSH, "known_hosts") }

// SSHConfig is what `ssh-config --install` includes into the user's own.
func (p Paths) SSHConfig() string { return filepath.Join(p.SSH, "config") }

// TemplatePaths are the files of one template, 0444 what VMMs open by path (the disks), else 0400, in a 0711 directory.
type TemplatePaths struct{ Dir string }

// Root and Work are the disks that clones' disks lie on: the root as it was frozen, and a
// work disk that a guest has formatted and nobody has used.
func (t TemplatePaths) Device() string { return filepath.Join(t.Dir, "device") }
func (t TemplatePaths) Memory() string { return filepath.Join(t.Dir, "memory") }

func (t TemplatePaths) Root() string { return filepath.Join(t.Dir, "root") }
func (t TemplatePaths) Work() string { return filepath.Join(t.Dir, "work") }

// VMPaths are the files of one VM. Sockets have one-letter names, since a socket's path
// may have 107 bytes only.
type VMPaths struct {
	// Dir belongs to the daemon (0711 where VMMs have uids of their own, else 0700).
	Dir string
}

// Handles is the scratch record of what is true now: processes and devices.
func (v VMPaths) Handles() string { return filepath.Join(v.Dir, "handles.json") }

// MainLog and MainIndex are the main command's output and the times of its parts.
func (v VMPaths) MainLog() string   { return filepath.Join(v.Dir, "main.log") }
func (v VMPaths) MainIndex() string { return filepath.Join(v.Dir, "main.idx") }

// HostKey is the guest's ssh host key, made by the daemon (0600).
func (v VMPaths) HostKey() string { return filepath.Join(v.Dir, "ssh_host_ed25519_key") }

// Private belongs to the VMM's uid (0700).
func (v VMPaths) Private() string { return filepath.Join(v.Dir, "v") }

// NetLog is what the processes of a user network say; beside Private, since the daemon writes it.
func (v VMPaths) NetLog() string { return filepath.Join(v.Dir, "net.log") }

func (v VMPaths) ControlSocket() string { return filepath.Join(v.Private(), "q") }
func (v VMPaths) AgentSocket() string   { return filepath.Join(v.Private(), "a") }
func (v VMPaths) NetSocket() string     { return filepath.Join(v.Private(), "n") }
func (v VMPaths) Console() string       { return filepath.Join(v.Private(), "console.log") }
func (v VMPaths) VMMLog() string        { return filepath.Join(v.Private(), "vmm.log") }

// RootDisk and WorkDisk are the disks as they are first made; RootTop and WorkTop those that lie on a layer.
func (v VMPaths) RootDisk() string            { return filepath.Join(v.Private(), "root") }
func (v VMPaths) WorkDisk() string            { return filepath.Join(v.Private(), "work") }
func (v VMPaths) RootTop(layer string) string { return v.RootDisk() + "-" + layer }
func (v VMPaths) WorkTop(layer string) string { return v.WorkDisk() + "-" + layer }

// Frozen holds the state of a suspended VM. It is complete when it has this name: it is written as
// FrozenNew, and renamed to FrozenUsed when the guest is about to go on from it.
func (v VMPaths) Frozen() string     { return filepath.Join(v.Dir, "frozen") }
func (v VMPaths) FrozenNew() string  { return filepath.Join(v.Dir, "frozen.new") }
func (v VMPaths) FrozenUsed() string { return filepath.Join(v.Dir, "frozen.used") }

// FrozenNext is a snapshot's state on its way to be Frozen.
func (v VMPaths) FrozenNext() string { return filepath.Join(v.Dir, "frozen.next") }
