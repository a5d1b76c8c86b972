package serve

import (
	"io"
	"net/http"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/frame/tree"
)

// getImage sends the root disk as an image: files, not blocks, so that nothing of what was deleted on it, and nothing of this
// machine's identity, is in what is made of them.
func (s *Server) getImage(w http.ResponseWriter, r *http.Request) error {
	root, done, err := s.o.System.RootDisk(r.Context())
	if err != nil {
		return err
	}
	defer func() {
		if err := done(); err != nil {
			s.log.Warn("cannot let go of the root disk", "err", err)
		}
	}()
	texts := rootTexts{}
	for _, t := range []struct {
		name string
		text *string
	}{{"etc/hosts", &texts.hosts}, {"etc/gitconfig", &texts.gitConfig}} {
		if *t.text, err = readIn(root, t.name); err != nil {
			return fileError("read", "/"+t.name, err)
		}
	}
	send(w, r, root, "/", tree.PackOptions{Name: ".", Capabilities: true, Edit: func(name string, mode uint32) tree.Edit {
		return anonymous(name, mode, texts)
	}})
	return nil
}

// rootTexts are files of the root disk that travel without what banger has put into them.
type rootTexts struct{ hosts, gitConfig string }

// maxText bounds what is read of a file.
const maxText = 1 << 20

// readIn reads a plain file below dir; one that is none is as good as empty.
func readIn(dir *os.File, name string) (string, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return "", nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxText {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	return string(b), err
}

// anonymous says what becomes of a member of the root disk in an image. What is left out is made anew by each machine, or by
// banger for it.
func anonymous(name string, mode uint32, texts rootTexts) tree.Edit {
	regular := mode&unix.S_IFMT == unix.S_IFREG
	for _, pattern := range notInImages() {
		if ok, _ := path.Match(pattern, name); ok {
			return tree.Edit{Omit: true}
		}
	}
	for _, pattern := range emptyInImages() {
		if ok, _ := path.Match(pattern, name); ok && (regular || mode&unix.S_IFMT == unix.S_IFDIR) {
			return tree.Edit{Empty: true}
		}
	}
	switch {
	case !regular:
	case name == "var/lib/dbus/machine-id":
		return tree.Edit{Omit: true}
	case name == "etc/hostname":
		return tree.Edit{Text: "localhost\n"}
	case name == "etc/hosts":
		return tree.Edit{Text: withoutOwnName(texts.hosts), Empty: true}
	case name == "etc/gitconfig":
		text := GitConfig(texts.gitConfig, nil)
		return tree.Edit{Text: text, Empty: true, Omit: text == ""}
	}
	return tree.Edit{}
}

// emptyInImages are directories and files whose contents belong to one machine, or to its running.
func emptyInImages() []string {
	return []string{
		"dev", "proc", "sys", "run", "tmp", "var/tmp", "var/log/journal", "var/lib/systemd/coredump",
		"etc/machine-id", "etc/resolv.conf", "var/log/wtmp", "var/log/btmp", "var/log/lastlog",
	}
}

// notInImages are files that no two machines may share, see uniqueFiles in package agent too; keys; and mke2fs's own directory.
func notInImages() []string {
	return []string{
		"lost+found", "etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub",
		"root/.ssh", "home/*/.ssh", "root/.*_history", "home/*/.*_history",
		"var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "var/lib/misc/random-seed",
		"var/lib/systemd/credential.secret", "var/lib/NetworkManager/secret_key",
		"var/lib/NetworkManager/*.lease", "var/lib/dhcp/*.leases",
	}
}

// withoutOwnName leaves out the line that names the machine itself, by 127.0.1.1 as Debian has it (hosts(5)).
func withoutOwnName(hosts string) string {
	var b strings.Builder
	for line := range strings.Lines(hosts) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.1.1" {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}
