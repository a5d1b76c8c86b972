package agentapi

// Layout of banger's initramfs: written by the host's image/initramfs, read by the
// agent. Everything lies under InitramfsDir, so that one bind mount keeps it in
// reach after the switch to the guest's own root.
const (
	InitramfsDir   = "/banger"
	InitramfsAgent = InitramfsDir + "/agent"
	// InitramfsModules holds the boot modules and their index, a JSON list of
	// BootModule in load order.
	InitramfsModules = InitramfsDir + "/modules"
	ModuleIndex      = "index.json"
	// InitramfsTools holds programs; a dynamic one is started as
	// ToolLoader --library-path ToolLibraries PROGRAM.
	InitramfsTools = InitramfsDir + "/tools"
	ToolLoader     = "ld.so"
	ToolLibraries  = "lib"
)

// BootModule is a kernel module in the initramfs.
type BootModule struct {
	// Name has underscores only, as in /proc/modules.
	Name string `json:"name"`
	// File is its name in InitramfsModules.
	File string `json:"file"`
	// Deps are names of modules that must be loaded before; all are in the index.
	Deps []string `json:"deps"`
	// Virtio are the virtio device types that it drives (1 network, 2 block, …; the
	// VIRTIO specification, section 5): it is loaded when such a device is present.
	// A module that was asked for and has none is loaded always.
	Virtio []uint32 `json:"virtio"`
	// Wanted is false for those that are here only because others depend on them.
	Wanted bool `json:"wanted"`
}
