package api

// Version is this build's, set by the linker (-ldflags "-X banger/api.Version=v1.2.3")
// and never changed while running. Client, daemon and agent of one build carry the same.
var Version = "dev"

// VersionHeader is on every answer of the daemon, so that a client of another build can say so.
const VersionHeader = "Banger-Version"

// FileModeHeader carries a file's permission bits, octal, on GET /v1/vms/{ref}/files.
const FileModeHeader = "Banger-File-Mode"

// StoppingHeader is on the refusal of a daemon that is just ending: it has done nothing with
// the request, and the next daemon will take it.
const StoppingHeader = "Banger-Stopping"
