package api

import (
	"path"
	"time"
)

// Workspace is a git repository that was brought into a VM: PUT /v1/vms/{ref}/workspaces records it. The daemon
// never reads the repository itself.
type Workspace struct {
	// HostPath is the work tree on the host, GuestPath the repository in the guest; both absolute.
	HostPath  string `json:"host_path"`
	GuestPath string `json:"guest_path"`
	// User owns it in the guest, optionally USER:GROUP; empty: root.
	User string `json:"user"`
	// Mode is "shallow_overlay", "full_copy" or "metadata_only".
	Mode string `json:"mode"`
	// Branch is the one checked out in the guest, empty for none. Head is the commit that was brought, empty before the first one.
	Branch           string    `json:"branch"`
	Head             string    `json:"head"`
	IncludeUntracked bool      `json:"include_untracked"`
	ReadOnly         bool      `json:"read_only"`
	PreparedAt       time.Time `json:"prepared_at"`
}

// MaxWorkspaces is how many of one VM are recorded; the oldest is forgotten first.
const MaxWorkspaces = 32

// Validate refuses a record that makes no sense.
func (w Workspace) Validate() error {
	for _, p := range []string{w.HostPath, w.GuestPath} {
		if !path.IsAbs(p) || len(p) > 4096 {
			return Errorf(CodeInvalid, "path %q of a workspace is not absolute, or too long", p)
		}
	}
	if len(w.User)+len(w.Mode)+len(w.Branch)+len(w.Head) > 1024 {
		return Errorf(CodeInvalid, "the words of a workspace are too long")
	}
	return nil
}
