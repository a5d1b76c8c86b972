package api

import "time"

// Image is a sealed root disk.
type Image struct {
	// Digest is the sha256 of the disk's contents, hex; the image's identity.
	Digest string `json:"digest"`
	Name   string `json:"name"`
	// SizeBytes is the disk's size as the guest sees it, UsedBytes what it takes on the host.
	SizeBytes int64 `json:"size_bytes"`
	UsedBytes int64 `json:"used_bytes"`
	// Init is what PID 1 is handed to: "systemd" for an image that has it, else "none"
	// (the agent stays PID 1 as a reaper).
	Init string `json:"init"`
	// HasSSHD and HasGit tell what the image contains.
	HasSSHD bool `json:"has_sshd"`
	HasGit  bool `json:"has_git"`
	// Source says where it comes from: "build debian", "import root.tar", "save VM of IMAGE (DIGEST)", …
	Source    string    `json:"source"`
	CreatedAt time.Time `json:"created_at"`
}

// Kernel is a sealed kernel with the modules that go with it.
type Kernel struct {
	Digest    string    `json:"digest"`
	Name      string    `json:"name"`
	Version   string    `json:"version"` // as in `uname -r`
	UsedBytes int64     `json:"used_bytes"`
	Source    string    `json:"source"`
	CreatedAt time.Time `json:"created_at"`
}

// ImageBuild is POST /v1/images/build.
type ImageBuild struct {
	// Recipe is "debian" or "minimal".
	Recipe string `json:"recipe"`
	Name   string `json:"name"` // empty: the recipe's
	// Packages replaces the recipe's package list; Mirror its source; both for debian only.
	Packages []string `json:"packages"`
	Mirror   string   `json:"mirror"`
	// Run is a script that runs in the new root (debian only); its failure fails the build.
	Run string `json:"run"`
	// SizeBytes is the root disk's size; 0: as small as its contents allow.
	SizeBytes int64 `json:"size_bytes"`
}

// ImageImport is POST /v1/images/import. Path is on the host and is read as the
// calling user.
type ImageImport struct {
	Name string `json:"name"`
	// Path is a root tarball (plain, gzip, xz, zstd), a directory, or an ext4 file.
	Path string `json:"path"`
}

// ImageSave is POST /v1/images/save.
type ImageSave struct {
	// VM is the name or id of a running VM; Name the new image's, which no image has.
	VM   string `json:"vm"`
	Name string `json:"name"`
}

// KernelBuild is POST /v1/kernels/build.
type KernelBuild struct {
	Recipe string `json:"recipe"` // "debian"
	Name   string `json:"name"`   // empty: the recipe's
}

// KernelImport is POST /v1/kernels/import.
type KernelImport struct {
	Name string `json:"name"`
	// Path is a bzImage or ELF kernel; ModulesDir its lib/modules/VERSION directory.
	Path       string `json:"path"`
	ModulesDir string `json:"modules_dir"`
}
