package serve

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// PutFiles puts files of the host into the homes of the guest whose root directory is root, and says of each that is not there
// afterwards why. Others own the directories that this writes to as root: no name leads out of a home, and the files belong to
// whoever the home belongs to.
func PutFiles(root string, files []agentapi.File) (unwritten []string) {
	p := putter{root: root, own: root == "/" && os.Geteuid() == 0}
	defer p.leave()
	for _, f := range files {
		if err := p.put(f); err != nil {
			unwritten = append(unwritten, fmt.Sprintf("%s: %v", f.Path, errnoOf(err)))
		}
	}
	return unwritten
}

// putter keeps the directory that it was in last open.
type putter struct {
	root string
	own  bool
	// home is open unless its name is empty; dir is the name, relative to it, of the open directory fd, and there is none while fd is
	// below 0.
	homeName string
	home     int
	dir      string
	fd       int
	uid, gid int
}

func (p *putter) leave() {
	if p.homeName != "" {
		p.leaveDir()
		_ = unix.Close(p.home)
		p.homeName = ""
	}
}

func (p *putter) leaveDir() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

func (p *putter) put(f agentapi.File) error {
	home, rel, err := splitHome(f.Path)
	if err != nil {
		return err
	}
	if err := p.enterHome(home); err != nil {
		return err
	}
	dir, base := path.Split(rel)
	if err := p.enter(path.Clean(dir)); err != nil {
		return err
	}
	if !f.Dir {
		return p.write(base, f)
	}
	err = p.mkdir(p.fd, base, f.Mode)
	if errors.Is(err, unix.EEXIST) {
		return nil // what it is shows when something is put into it
	}
	return err
}

var errNoHome = errors.New("it is in no home directory")

func splitHome(name string) (home, rel string, err error) {
	words := strings.SplitN(name, "/", 4) // "", root, rest…
	switch {
	case path.Clean(name) != name || len(words) < 3 || words[0] != "":
		return "", "", errNoHome
	case words[1] == "root":
		return "/root", strings.TrimPrefix(name, "/root/"), nil
	case words[1] == "home" && len(words) == 4:
		return "/home/" + words[2], words[3], nil
	}
	return "", "", errNoHome
}

func (p *putter) enterHome(home string) error {
	if p.homeName == home {
		return nil
	}
	p.leave()
	fd, err := unix.Open(path.Join(p.root, home), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("its home: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return err
	}
	p.home, p.homeName, p.fd, p.uid, p.gid = fd, home, -1, int(st.Uid), int(st.Gid)
	return nil
}

// enter opens the directory dir below the home, and makes what is missing on the way.
func (p *putter) enter(dir string) error {
	if p.fd >= 0 && p.dir == dir {
		return nil
	}
	p.leaveDir()
	fd, err := p.open(dir)
	if errors.Is(err, unix.ENOENT) {
		words := strings.Split(dir, "/")
		for n := range words {
			if err := p.makeBelow(path.Join(words[:n]...), words[n]); err != nil {
				return err
			}
		}
		fd, err = p.open(dir)
	}
	if err != nil {
		return err
	}
	p.fd, p.dir = fd, dir
	return nil
}

func (p *putter) makeBelow(parent, base string) error {
	fd, err := p.open(parent)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.mkdir(fd, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// open opens a directory by its name relative to the home.
func (p *putter) open(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 100 {
		fd, err := unix.Openat2(p.home, dir, how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) { // EAGAIN: something was renamed meanwhile
			continue
		}
		if errors.Is(err, unix.EXDEV) {
			err = errors.New("a symbolic link leads out of the home")
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

func (p *putter) mkdir(parent int, base string, mode uint32) error {
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return p.dress(fd, mode)
}

func (p *putter) dress(fd int, mode uint32) error {
	if p.own {
		if err := unix.Fchown(fd, p.uid, p.gid); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, mode&0o777)
}

// write puts a file in place by rename, so that nobody sees half of it; one that is there already is left alone.
func (p *putter) write(base string, f agentapi.File) error {
	if p.has(base, f) {
		return nil
	}
	temp := ".banger-" + rand.Text()[:12]
	fd, err := unix.Openat(p.fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), temp)
	_, err = out.Write(f.Data)
	if err == nil {
		err = p.dress(fd, f.Mode)
	}
	err = errors.Join(err, out.Close())
	if err == nil {
		err = unix.Renameat(p.fd, temp, p.fd, base)
	}
	if err != nil {
		_ = unix.Unlinkat(p.fd, temp, 0)
	}
	return err
}

func (p *putter) has(base string, f agentapi.File) bool {
	fd, err := unix.Openat(p.fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	old := os.NewFile(uintptr(fd), base)
	defer old.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode != unix.S_IFREG|f.Mode&0o777 || st.Size != int64(len(f.Data)) ||
		p.own && (int(st.Uid) != p.uid || int(st.Gid) != p.gid) {
		return false
	}
	data := make([]byte, len(f.Data))
	n, _ := old.ReadAt(data, 0)
	return n == len(data) && bytes.Equal(data, f.Data)
}
