package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// diskSpec says what kind of ext4 file a tree becomes.
type diskSpec struct {
	// sizeBytes is its size; 0 means the contents and some slack.
	sizeBytes int64
	// sealed is for a disk that no guest can ever write: no journal, no room to grow.
	sealed bool
	label  string
}

// makeDisk turns the tree into an ext4 file at path. mke2fs reads the stand-ins under
// fakeroot, which tells it the owners, modes and devices from the state that we write: so
// nothing on this host ever has a foreign owner, a setuid bit or a device node.
func (s *Service) makeDisk(ctx context.Context, u *unpacker, dir, path string, spec diskSpec) error {
	if err := u.finish(); err != nil {
		return diskError(err)
	}
	size, ratio := u.diskSize(spec.sealed)
	if spec.sizeBytes > 0 && spec.sizeBytes < size {
		return api.Errorf(api.CodeInvalid, "the root disk's size is %d MiB, but its contents need %d MiB", spec.sizeBytes>>20, size>>20)
	}
	size = max(size, spec.sizeBytes)
	work := filepath.Dir(path)
	state, conf := filepath.Join(work, "fakeroot.state"), filepath.Join(work, "mke2fs.conf")
	if err := u.writeFakeState(state); err != nil {
		return diskError(fmt.Errorf("cannot write fakeroot's state: %w", err))
	}
	if err := os.WriteFile(conf, mke2fsConf(ratio, spec.sealed), 0o600); err != nil {
		return diskError(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return diskError(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return diskError(err)
	}
	fakeroot, err := s.Host.LookPath("fakeroot")
	if err != nil {
		return err
	}
	mke2fs, err := s.Host.LookPath("mke2fs")
	if err != nil {
		return err
	}
	// Without lazy initialisation no kernel thread writes inode tables in the background of every new VM.
	args := []string{"-i", state, "--", mke2fs, "-q", "-F", "-t", "ext4", "-m", "0", "-L", spec.label,
		"-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", "-d", dir, path}
	err = s.Host.Run(ctx, host.Command{Path: fakeroot, Args: args, Env: s.env("MKE2FS_CONFIG=" + conf)})
	if err != nil {
		return s.runError(fmt.Errorf("cannot make the file system: %w", err))
	}
	if err := s.setCapabilities(ctx, u, work, path); err != nil {
		return err
	}
	return errors.Join(os.Remove(state), os.Remove(conf))
}

// mke2fsConf replaces the host's: the same contents give the same kind of file system
// everywhere, one that Linux 5.4 and later can mount and grow online.
func mke2fsConf(inodeRatio int64, sealed bool) []byte {
	features := "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize"
	base := "sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr"
	if sealed {
		features = strings.TrimPrefix(features, "has_journal,")
		base = "sparse_super,large_file,filetype,dir_index,ext_attr"
	}
	return fmt.Appendf(nil, `[defaults]
	base_features = %s
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = %d
[fs_types]
	ext4 = {
		features = %s
	}
`, base, inodeRatio, features)
}

// diskSize is a size, in bytes, that the tree fits into with some slack, and the bytes per inode to ask for.
func (u *unpacker) diskSize(sealed bool) (size, inodeRatio int64) {
	const block = 4096
	var data, inodes int64
	seen := map[*node]bool{}
	perDir := map[string]int64{}
	for name, n := range u.nodes {
		perDir[filepath.Dir(name)] += 12 + int64(len(filepath.Base(name)))
		if seen[n] {
			continue
		}
		seen[n] = true
		inodes++
		switch {
		case n.kind == tar.TypeReg:
			data += (n.size + block - 1) / block * block
		case n.kind == tar.TypeSymlink && len(n.target) >= 60: // shorter ones live in the inode
			data += block
		}
	}
	for _, names := range perDir {
		data += (names/block*4/3 + 1) * block
	}
	inodes += inodes/8 + 512
	size = data + data/50 + inodes*256
	switch {
	case sealed:
		size += 1 << 20
	case size < 100<<20:
		size += 4<<20 + 4<<20 // the journal that mke2fs gives a file system of this size, and slack
	default:
		size += 16<<20 + size/16
	}
	size = (size + 1<<20 - 1) >> 20 << 20
	return size, max(1024, min(16384, size/inodes))
}

// writeFakeState writes what `fakeroot -s` would: a line per inode. The numbers of stat(2)'s
// device are hexadecimal, of its mode octal (fakeroot 1.31, communicate.c and faked.c).
func (u *unpacker) writeFakeState(path string) error {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	seen := map[*node]bool{}
	for name, n := range u.nodes {
		if seen[n] {
			continue
		}
		seen[n] = true
		info, err := u.root.Lstat(name)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("no stat(2) on this system")
		}
		rdev := unix.Mkdev(uint32(n.major), uint32(n.minor))
		fmt.Fprintf(w, "dev=%x,ino=%d,mode=%o,uid=%d,gid=%d,nlink=%d,rdev=%d\n",
			st.Dev, st.Ino, n.fileMode(), n.uid, n.gid, st.Nlink, rdev)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// fileMode is the node's mode as in stat(2).
func (n *node) fileMode() int64 {
	kind := map[byte]int64{
		tar.TypeDir: unix.S_IFDIR, tar.TypeReg: unix.S_IFREG, tar.TypeSymlink: unix.S_IFLNK,
		tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
	}[n.kind]
	return kind | n.mode
}
