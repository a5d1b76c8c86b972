package image

import (
	"archive/tar"
	"encoding/binary"
	"strings"
	"time"
)

// nodeOf says what an entry becomes: nil for one that is left out. For a hard link it is
// the node of the file that it names.
func (u *unpacker) nodeOf(h *tar.Header, name string) (*node, error) {
	n := &node{mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, mtime: saneTime(h.ModTime)}
	if u.owner != nil {
		n.uid, n.gid = u.owner(n.uid, n.gid)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind = tar.TypeDir
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.kind, n.size = tar.TypeReg, h.Size
		n.capability = capability(h.PAXRecords["SCHILY.xattr.security.capability"])
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > 4095 || strings.ContainsRune(h.Linkname, 0) {
			return nil, refuse(h.Name, "a symbolic link to nowhere")
		}
		// Where it leads is the guest's business: nothing here ever follows it.
		n.kind, n.target, n.mode = tar.TypeSymlink, h.Linkname, 0o777
	case tar.TypeLink:
		return u.linked(h)
	case tar.TypeFifo:
		n.kind = tar.TypeFifo
	case tar.TypeChar, tar.TypeBlock:
		n.kind, n.major, n.minor = h.Typeflag, h.Devmajor, h.Devminor
		return u.device(h, name, n)
	case tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, refuse(h.Name, "an entry of unknown type %q", h.Typeflag)
	}
	for key := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && attr != "security.capability" {
			u.dropped["extended attributes"]++
		}
	}
	return n, nil
}

// linked finds what a hard link names: a file that came earlier in the archive.
func (u *unpacker) linked(h *tar.Header) (*node, error) {
	to, err := cleanName(h.Linkname)
	if err != nil {
		return nil, err
	}
	n, ok := u.nodes[to]
	switch {
	case !ok:
		return nil, refuse(h.Name, "a hard link to %q, which is not in the archive before it", h.Linkname)
	case n.kind == tar.TypeDir:
		return nil, refuse(h.Name, "a hard link to the directory %q", h.Linkname)
	}
	return n, nil
}

// device lets the ordinary devices be. Others below /dev go without a word, since the guest's
// kernel mounts its own there; anywhere else they are refused: 0:0 is an overlay's
// whiteout, and a disk's node would give the guest's users a way past permissions.
func (u *unpacker) device(h *tar.Header, name string, n *node) (*node, error) {
	if h.Typeflag == tar.TypeChar && ordinaryDevice(h.Devmajor, h.Devminor) {
		return n, nil
	}
	if strings.HasPrefix(name, "dev/") {
		u.dropped["device below /dev"]++
		return nil, nil
	}
	if h.Devmajor == 0 && h.Devminor == 0 {
		return nil, refuse(h.Name, "a whiteout: this is one layer of a container image, not a whole root (docker export or podman export gives that)")
	}
	return nil, refuse(h.Name, "device %d:%d outside /dev", h.Devmajor, h.Devminor)
}

// ordinaryDevice: null, zero, full, random, urandom; tty, console, ptmx; fuse, tun
// (Linux, Documentation/admin-guide/devices.txt).
func ordinaryDevice(major, minor int64) bool {
	switch major {
	case 1:
		return minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9
	case 5:
		return minor >= 0 && minor <= 2
	case 10:
		return minor == 229 || minor == 200
	}
	return false
}

// capability checks a security.capability value (linux/capability.h, struct vfs_ns_cap_data)
// and brings it to version 2: version 3 carries a uid of the user namespace it was set
// in, which means nothing in the guest. Anything else is dropped.
func capability(value string) []byte {
	b := []byte(value)
	if len(b) != 20 && len(b) != 24 {
		return nil
	}
	magic := binary.LittleEndian.Uint32(b)
	switch version := magic >> 24; {
	case version == 2 && len(b) == 20:
		return b
	case version == 3 && len(b) == 24:
		binary.LittleEndian.PutUint32(b, 2<<24|magic&0xffffff)
		return b[:20]
	}
	return nil
}

// saneTime keeps times within what ext4 can store (1901 to 2446), and a bad clock from
// making files of the future.
func saneTime(t time.Time) time.Time {
	if t.Unix() < 0 || t.Unix() > 1<<33 {
		return time.Unix(0, 0)
	}
	return t
}
