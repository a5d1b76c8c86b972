package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The figures of the repositories that are brought into a guest.
const (
	repoFiles   = 5000
	repoHistory = 300 << 20
)

// workspaces is a repository brought into a guest, beside git in that guest which clones it over ssh.
func (b *bench) workspaces() (lines []line, err error) {
	small, big := filepath.Join(b.dir, "small"), filepath.Join(b.dir, "big")
	if err := errors.Join(makeRepository(small, 0), makeRepository(big, repoHistory)); err != nil {
		return nil, err
	}
	defer os.RemoveAll(small)
	defer os.RemoveAll(big)
	origin, err := b.newOrigin()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, origin.close()) }()
	if err := b.banger("run", "-d", "--name", "w", "--image", "debian", "--memory", "512M", "--disk-size", "2G"); err != nil {
		return nil, err
	}
	if err := b.banger("cp", origin.key, "w:/root/key"); err != nil {
		return nil, err
	}
	in := func(line string) error { return b.banger("exec", "w", "--", "sh", "-ec", line) }
	// What is timed begins with nothing there, and nothing left to be written.
	prepared := func(repo string) act {
		return func(int) (float64, error) {
			if err := in("rm -rf /root/repo; sync"); err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := b.banger("vm", "workspace", "prepare", "--guest-path", "/root/repo", "w", repo); err != nil {
				return 0, err
			}
			took := float64(time.Since(begin).Microseconds()) / 1000
			return took, b.sameTree(repo, in)
		}
	}
	cloned := func(int) (float64, error) {
		if err := in("rm -rf /root/clone; sync"); err != nil {
			return 0, err
		}
		begin := time.Now()
		err := in("chmod 600 key; GIT_SSH_COMMAND='ssh -i /root/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR' " +
			"git clone -q --depth 10 ssh://root@" + originAddress + small + " clone")
		return float64(time.Since(begin).Microseconds()) / 1000, err
	}
	s, err := b.alternate(3, prepared(small), cloned, prepared(big))
	if err != nil {
		return nil, err
	}
	return []line{
		{
			What: "workspace prepare, 5,000 files", Beside: "git clone --depth 10 in that guest, over ssh from the host",
			Ours: s[0], Theirs: s[1], Bound: bound{ratio, 0.5},
		},
		{What: "the same with a history of 300 MB", Beside: "without it", Ours: s[2], Theirs: s[0], Bound: bound{ratio, 2}},
	}, b.banger("rm", "-f", "w")
}

// sameTree insists that the guest's repository is this one.
func (b *bench) sameTree(repo string, in func(string) error) error {
	out, err := exec.Command("git", "-C", repo, "rev-parse", "HEAD", "HEAD^{tree}").Output()
	if err != nil {
		return err
	}
	words := strings.Fields(string(out))
	return in("cd repo; test $(git rev-parse HEAD) = " + words[0] + "; test -z \"$(git status --porcelain)\"; " +
		"export GIT_INDEX_FILE=/root/check; rm -f check $GIT_INDEX_FILE; git add -A; test $(git write-tree) = " + words[1])
}

// makeRepository makes one of many small files and a dozen commits, with so many bytes of history that is no longer in use.
func makeRepository(dir string, history int) error {
	random := mathrand.New(mathrand.NewPCG(1, 2)) //nolint:gosec // the same text each time
	for n := range repoFiles {
		name := filepath.Join(dir, fmt.Sprintf("d%d/e%d/f%d.txt", n%50, n%7, n))
		var text strings.Builder
		for range 5 + random.IntN(80) {
			fmt.Fprintf(&text, "%x %x line of text %d\n", random.Uint64(), random.Uint32(), n)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text.String()), 0o644)); err != nil { //nolint:gosec // for the guest
			return err
		}
	}
	git := func(args ...string) error {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "core.compression=0"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
		return nil
	}
	err := errors.Join(git("init", "-q"), git("add", "."), git("commit", "-q", "-m", "first"))
	const piece = 10 << 20
	for n := 0; n < history; n += piece {
		blob := make([]byte, piece)
		_, _ = rand.Read(blob) // never fails on Linux
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "large"), blob, 0o600), git("add", "large"), git("commit", "-q", "-m", "large"))
	}
	if history > 0 {
		err = errors.Join(err, git("rm", "-q", "large"), git("commit", "-q", "-m", "gone"))
	}
	for n := range 12 {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "d1", "last"), []byte(fmt.Sprint(n)), 0o600), git("add", "."), git("commit", "-q", "-m", "more"))
	}
	// As any repository that has been used for a while.
	err = errors.Join(err, git("repack", "-q", "-a", "-d"))
	then := time.Now().Add(-time.Hour)
	return errors.Join(err, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(p, then, then))
	}), git("update-index", "-q", "--refresh"))
}
