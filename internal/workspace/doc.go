// Package workspace brings a git work tree of this host into a guest, and a patch of what was
// done there back. It owns how a repository is read, what is shipped, and what may be
// replaced in a guest. Only cli may import it: it runs as the calling user, never as the daemon, so
// that nobody reads another's files through it.
//
// A repository is not trusted. Git is started with its hooks, fsmonitor, filters, transports and
// lazy fetches off whatever its configuration says, and files are opened without following
// symbolic links. Nothing is written to the repository but by Apply: objects and indexes that are
// needed on the way lie in a temporary directory.
package workspace
