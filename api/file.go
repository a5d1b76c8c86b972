package api

// FileStat describes a path in a guest: GET /v1/vms/{ref}/stat.
type FileStat struct {
	Path string `json:"path"`
	// Kind is "file", "dir", "symlink" or "other".
	Kind string `json:"kind"`
	// Mode is the permission bits, setuid, setgid and sticky as in stat(2).
	Mode      uint32 `json:"mode"`
	SizeBytes int64  `json:"size_bytes"`
}

// VMCreated is the answer of POST /v1/vms: 201 when it was made, 200 when the same
// client_id and spec were there already, 202 when a start is under way.
type VMCreated struct {
	VM VM `json:"vm"`
	// Operation is the start that VMCreate.Start asked for; null where it asked for none.
	Operation *Operation `json:"operation"`
}
