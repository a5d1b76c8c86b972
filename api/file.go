package api

// FileStat describes a path in a guest.
type FileStat struct {
	Path string `json:"path"`
	// Kind is file, dir, symlink or other; a symlink is not followed.
	Kind string `json:"kind"`
	// Mode is the permission bits.
	Mode      uint32 `json:"mode"`
	SizeBytes int64  `json:"size_bytes"`
}
