package image

import (
	"archive/tar"
	"bytes"
	"path"
	"strings"
	"time"
)

// What follows adds entries of our own to a tree; the paths are constants of recipes.

func (u *unpacker) putDir(name string, mode int64, mtime time.Time) error {
	return u.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: mtime}, nil)
}

func (u *unpacker) putFile(name string, mode int64, text []byte, mtime time.Time) error {
	return u.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text)), ModTime: mtime}, bytes.NewReader(text))
}

func (u *unpacker) putSymlink(name, target string, mtime time.Time) error {
	return u.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, ModTime: mtime}, nil)
}

// lookup follows symbolic links within the tree as the guest would: name of what is there at the end, or "".
func (u *unpacker) lookup(name string) string {
	at, rest := ".", strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		n, ok := u.nodes[next]
		if !ok {
			return ""
		}
		if n.kind != tar.TypeSymlink {
			at = next
			continue
		}
		if hops++; hops > 40 {
			return ""
		}
		if strings.HasPrefix(n.target, "/") {
			at = "."
		}
		rest = append(strings.Split(n.target, "/"), rest...)
	}
	return at
}

// facts are what api.Image tells of an image's contents.
type facts struct {
	init    string
	sshd    bool
	git     bool
	program bool // there is at least one executable file
}

// factsOf asks for names in a root, whatever it is kept in. resolve gives the name without
// links of a file that is there, and "" of one that is not.
func factsOf(resolve func(name string) string) facts {
	f := facts{init: "none"}
	if path.Base(resolve("sbin/init")) == "systemd" {
		f.init = "systemd"
	}
	f.sshd = resolve("usr/sbin/sshd") != ""
	for _, git := range []string{"usr/bin/git", "bin/git", "usr/local/bin/git"} {
		f.git = f.git || resolve(git) != ""
	}
	return f
}

func (u *unpacker) facts() facts {
	f := factsOf(u.lookup)
	for _, n := range u.nodes {
		f.program = f.program || n.kind == tar.TypeReg && n.mode&0o111 != 0
	}
	return f
}
