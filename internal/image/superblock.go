package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"banger/api"
	"banger/internal/host"
)

// errNoExt4 says that a file is something else, not that it is damaged.
var errNoExt4 = errors.New("no ext4 file system")

// superblock is what we want to know of a file system before we keep it.
type superblock struct{ sizeBytes int64 }

// readSuperblock reads the superblock at byte 1024 (Linux, Documentation/filesystems/ext4/super.rst).
func readSuperblock(f io.ReaderAt) (superblock, error) {
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, 1024); errors.Is(err, io.EOF) {
		return superblock{}, errNoExt4
	} else if err != nil {
		return superblock{}, err
	}
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != 0xEF53 {
		return superblock{}, errNoExt4
	}
	const journalDevice, is64bit = 0x8, 0x80
	incompatible := le.Uint32(b[0x60:])
	logBlock := le.Uint32(b[0x18:])
	switch {
	case logBlock > 6:
		return superblock{}, api.Errorf(api.CodeInvalid, "an ext4 file system with impossible blocks of 2^%d KiB", logBlock)
	case incompatible&journalDevice != 0:
		return superblock{}, api.Errorf(api.CodeInvalid, "an ext4 journal without its file system")
	}
	blocks := uint64(le.Uint32(b[0x4:]))
	if incompatible&is64bit != 0 {
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	if blocks == 0 || blocks > maxDisk>>(10+logBlock) {
		return superblock{}, api.Errorf(api.CodeInvalid, "an ext4 file system of an impossible size: %d blocks", blocks)
	}
	return superblock{sizeBytes: int64(blocks << (10 + logBlock))}, nil
}

var linkTarget = regexp.MustCompile(`(?m)^Fast link dest: "(.*)"$`)

// ext4Facts looks for a few names in a file system of foreign origin. debugfs parses it, so it
// runs as nobody where we are root, and gets the file as an open descriptor.
func (s *Service) ext4Facts(ctx context.Context, disk string) (facts, error) {
	debugfs, err := s.Host.LookPath("debugfs")
	if err != nil {
		return facts{}, err
	}
	f, err := os.Open(disk)
	if err != nil {
		return facts{}, err
	}
	defer f.Close()
	if err := f.Chmod(0o444); err != nil { // opening /proc/self/fd/3 asks for permission once more
		return facts{}, err
	}
	var failure error
	// stat is empty for a name that is not there; debugfs exits with 0 whatever happens.
	stat := func(name string) string {
		var out bytes.Buffer
		c := host.Command{Path: debugfs, Args: []string{"-R", "stat /" + name, "/proc/self/fd/3"}, Files: []*os.File{f}, Stdout: &out}
		if s.UID == 0 {
			c.UID, c.GID = nobody, nobody
		}
		failure = errors.Join(failure, s.Host.Run(ctx, c))
		if !strings.Contains(out.String(), "Inode: ") {
			return ""
		}
		return out.String()
	}
	if stat("") == "" {
		return facts{}, errors.Join(api.Errorf(api.CodeInvalid, "an ext4 file system so damaged that its root cannot be read"), failure)
	}
	found := factsOf(func(name string) string {
		for range 10 {
			out := stat(name)
			if out == "" {
				return ""
			}
			m := linkTarget.FindStringSubmatch(out)
			if m == nil {
				return name
			}
			target := m[1]
			if !strings.HasPrefix(target, "/") {
				target = path.Join("/", path.Dir(name), target)
			}
			name = strings.TrimPrefix(path.Clean(target), "/")
			if !plainPath.MatchString(name) { // debugfs has a command language (trap 42)
				return ""
			}
		}
		return ""
	})
	return found, failure
}

// nobody is the uid and gid with no rights at all on Linux systems.
const nobody = 65534
