package machine

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"banger/api"
)

// inHome writes a file into the home of the box's user.
func (b *box) inHome(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// configure writes config.toml; a daemon that runs begins anew with it.
func (b *box) configure(text string) {
	b.t.Helper()
	dir := filepath.Join(b.dir, "c")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	if _, err := os.Stat(b.socket()); err == nil {
		b.must("daemon", "stop")
	}
}

// holding are the files below dir that hold the marker. It reads the bytes of disks and memories, holes and all that was deleted included.
func holding(t *testing.T, dir, marker string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		const piece = 4 << 20
		buf := make([]byte, piece+len(marker))
		for at := int64(0); ; at += piece {
			n, err := f.ReadAt(buf, at)
			if bytes.Contains(buf[:n], []byte(marker)) {
				rel, _ := filepath.Rel(dir, path)
				out = append(out, rel)
				return nil
			}
			if err != nil {
				return nil //nolint:nilerr // its end
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inMemory tells whether a process's memory holds the marker; a VMM's is its guest's.
func inMemory(t *testing.T, pid int, marker string) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	buf, read := make([]byte, 1<<20+len(marker)), 0
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		from, to, _ := strings.Cut(f[0], "-")
		begin, err1 := strconv.ParseInt(from, 16, 64)
		end, err2 := strconv.ParseInt(to, 16, 64)
		if err1 != nil || err2 != nil || !strings.HasPrefix(f[1], "r") {
			continue // those of the kernel are beyond int64
		}
		for at := begin; at < end; at += 1 << 20 {
			n, _ := mem.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			read += n
			if bytes.Contains(buf[:n], []byte(marker)) {
				return true
			}
		}
	}
	if read < 64<<20 {
		t.Errorf("of process %d only %d MiB could be read: nothing is proven", pid, read>>20)
	}
	return false
}

// TestFileSync: the host's files are in a guest after each start, as they are on the host by then, and nowhere else.
func TestFileSync(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	marker := "MARK" + rand.Text()
	b.inHome(".netrc", marker+"\n")
	b.inHome(".gitconfig", "[user]\n\temail = ann@"+strings.ToLower(marker)+"\n")
	b.inHome("tool/conf", "one")
	b.inHome("tool/sub/key", "two")
	b.inHome("big", strings.Repeat("0123456789abcdef", 80<<10/16))
	if err := os.Symlink("/etc/shadow", filepath.Join(b.home, "tool", "link")); err != nil {
		t.Fatal(err)
	}
	b.configure(`
file_sync = [
	{ host = "~/.netrc" }, { host = "~/tool", guest = "~/.config/tool", mode = "0640" },
	{ host = "~/big" }, { host = "~/missing" },
]`)
	r := b.banger("run", "-d", "--name", "a")
	same(t, "run: "+r.stderr, r.code, 0)
	for _, w := range []string{"file_sync of ~/tool: tool/link is skipped: it is a symbolic link", "file_sync of ~/missing: there is no such file"} {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("no warning %q in %q", w, r.stderr)
		}
	}
	const look = "cd /root; stat -c '%n %a %U' .netrc .config .config/tool .config/tool/* .config/tool/sub/key; cat .netrc; wc -c <big; md5sum <big"
	want := ".netrc 600 root\n.config 700 root\n.config/tool 750 root\n.config/tool/conf 640 root\n.config/tool/sub 750 root\n.config/tool/sub/key 640 root\n" +
		marker + "\n81920\n" + strings.TrimSpace(b.run(nil, "sh", "-c", "md5sum <"+filepath.Join(b.home, "big")).stdout)
	same(t, "in the guest", b.guest("a", look), want)

	b.sub("nowhere else", func(t *testing.T, b *box) { b.onlyIn("a", marker) })
	for _, how := range [][]string{{"restart", "a"}, {"suspend", "a"}, {"stop", "a"}} {
		b.sub("as it is by then: "+how[0], func(t *testing.T, b *box) {
			text := how[0] + rand.Text()
			b.guest("a", "chmod 666 /root/.netrc; echo mine >/root/.config/tool/conf; echo own >/root/.config/tool/own")
			b.inHome(".netrc", text)
			b.must(how...)
			b.must("start", "a")
			same(t, ".netrc", b.guest("a", "stat -c %a /root/.netrc; cat /root/.netrc"), "600\n"+text)
			same(t, "the directory", b.guest("a", "cat /root/.config/tool/conf /root/.config/tool/own"), "oneown")
		})
	}
	b.sub("a daemon that comes back changes nothing", func(t *testing.T, b *box) {
		b.guest("a", "echo mine >/root/.netrc")
		b.killDaemon()
		b.must("ps")
		same(t, ".netrc", b.guest("a", "cat /root/.netrc"), "mine")
	})
	b.sub("a full work disk keeps no guest from starting", func(t *testing.T, b *box) {
		b.guest("a", "dd if=/dev/zero of=/root/full bs=64k 2>/dev/null; for n in 1 2 3 4 5 6 7 8 9; do echo x >>/root/full2; done; sync; true")
		b.inHome(".netrc", strings.Repeat("y", 9000))
		b.must("stop", "a")
		if r := b.banger("start", "a"); r.code != 0 || !strings.Contains(r.stderr, "file_sync: not in the guest: /root/.netrc: no space left on device") {
			t.Errorf("start: %v", r)
		}
		same(t, ".netrc", b.guest("a", "cat /root/.netrc"), "mine")
		b.guest("a", "rm /root/full*")
	})
}

// onlyIn looks for a marker that is in a file of one guest everywhere else.
func (b *box) onlyIn(name, marker string) {
	t := b.t
	t.Helper()
	b.guest(name, "sync")
	vm := b.show(name)
	same(t, "mail addresses in /etc/gitconfig", b.guest(name, "grep -c ann@mark /etc/gitconfig"), "1")
	b.must("session", "start", "--name", "s", name, "--", "sh", "-c", "ls -la /root; md5sum /root/.netrc")
	b.must("session", "wait", name, "s")
	if out := b.must("session", "logs", name, "s"); strings.Contains(out, marker) {
		t.Error("the session's log holds it")
	}
	b.must("image", "save", name, "mine")
	var img api.Image
	decode(t, b.must("image", "show", "--json", "mine"), &img)
	if found := holding(t, filepath.Join(b.state(), "images", img.Digest), "ann@"+strings.ToLower(marker)); len(found) > 0 {
		t.Errorf("the image holds the host's git identity: %v", found)
	}
	b.must("run", "-d", "--name", "saved", "--image", "mine") // its template is made now, with the entries in force
	b.must("rm", "-f", "saved")
	b.must("fork", "--name", "twin", name)
	same(t, "in a fork, which has its source's memory and disks", b.guest("twin", "cat /root/.netrc"), marker)
	b.must("rm", "-f", "twin")
	for path, text := range map[string]string{"events": b.must("events", "--json"), "show": b.must("vm", "show", "--json", name), "info": b.must("info", "--json")} {
		if strings.Contains(text, marker) {
			t.Errorf("%s holds it", path)
		}
	}
	found := holding(t, b.dir, marker)
	var ours int
	for _, path := range found {
		switch {
		case path == "h/.netrc":
		case strings.HasPrefix(path, "s/vms/"+vm.ID+"/v/work"), strings.HasPrefix(path, "s/layers/"): // layers are the work disk's, since the fork
			ours++
		default:
			t.Errorf("%s holds it", path)
		}
	}
	if ours == 0 {
		t.Errorf("not even the VM's own disk holds it, so that nothing is proven: %v", found)
	}
	if !inMemory(t, b.vmm(vm), marker) {
		t.Error("not even the guest's own memory holds it, so that nothing is proven")
	}
	if pid := b.info().PID; inMemory(t, pid, marker) {
		t.Log("the daemon's memory holds it still") // it has read it, and Go wipes nothing
	}

	// Another VM, of the same template, of a daemon that puts nothing into it.
	text, err := os.ReadFile(filepath.Join(b.dir, "c", "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	b.configure("")
	for _, image := range []string{"minimal", "mine"} {
		b.must("run", "-d", "--name", "other", "--image", image)
		other := b.show("other")
		same(t, "in another VM", b.guest("other", "ls -A /root | grep -v -e '^.ssh$' -e '^.local$' -e '^.bashrc$' -e '^.profile$' -e '^.cache$'; sync; true"), "")
		if inMemory(t, b.vmm(other), marker) {
			t.Errorf("the memory of another VM of image %s holds it", image)
		}
		b.must("suspend", "other")
		if found := holding(t, b.vmDir(other), marker); len(found) > 0 {
			t.Errorf("another VM of image %s holds it: %v", image, found)
		}
		b.must("rm", "-f", "other")
	}
	b.must("image", "delete", "mine")
	b.configure(string(text))
}

// TestFileSyncPool: who takes a clone of the pool gets the files, and nobody before.
func TestFileSyncPool(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("pool", "1"))
	t.Cleanup(func() {
		b.banger("daemon", "stop")
		b.env = append(b.env, "BANGER_POOL=0")
	})
	marker := "MARK" + rand.Text()
	b.inHome(".netrc", marker)
	b.inHome("big", strings.Repeat("0123456789abcdef", 80<<10/16))
	b.inHome(".gitconfig", "[user]\n\tname = Ann\n\temail = ann@example.org\n")
	b.configure("file_sync = [ { host = \"~/.netrc\" }, { host = \"~/big\" } ]")
	b.must("template", "build")
	pooled := b.pooled(1)[0]
	if inMemory(t, b.vmm(pooled), marker) || len(holding(t, b.vmDir(pooled), marker)) > 0 {
		t.Error("a clone in the pool holds it")
	}
	b.must("run", "-d", "--name", "x")
	same(t, "the VM", b.show("x").ID, pooled.ID)
	same(t, "in the guest", b.guest("x", "stat -c %a /root/.netrc; cat /root/.netrc; wc -c </root/big; grep -c Ann /etc/gitconfig"), "600\n"+marker+"81920\n1")
}

// TestGitIdentity: commits in a guest have the host's author, unless anything in the guest says otherwise.
func TestGitIdentity(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"), setting("net", "none"), setting("ready_timeout", "4m"))
	b.inHome(".gitconfig", "[user]\n\tname = Ann \\\"the\\\" Host\n[include]\n\tpath = more\n")
	b.inHome("more", "[user]\n\temail = ann@example.org\n")
	b.must("run", "-d", "--name", "x")
	const commit = `cd "$(mktemp -d)" && git init -q 2>/dev/null && %s git commit -q --allow-empty -m x && git log -1 --format='%%an <%%ae>'`
	who := func(vm, setup string) string { return b.guest(vm, fmt.Sprintf(commit, setup)) }
	const host = `Ann "the" Host <ann@example.org>`
	same(t, "a commit", who("x", ""), host)
	same(t, "of dev", b.must("exec", "-u", "dev", "x", "--", "sh", "-c", fmt.Sprintf(commit, "")), host)
	same(t, "of a repository with its own", who("x", "git config user.name Repo &&"), "Repo <ann@example.org>")
	b.guest("x", "git config --global user.name Guest")
	same(t, "of a user with one", who("x", ""), "Guest <ann@example.org>")
	b.forwardsAgent("x")
	b.guest("x", "printf '[user]\\n\\temail = image@example.org\\n' >>/etc/gitconfig; sed -i s/Ann/Eve/ /etc/gitconfig")
	b.must("restart", "x")
	same(t, "after a restart", who("x", ""), "Guest <image@example.org>")
	b.guest("x", "git config --global --unset user.name")
	same(t, "of an image with one", who("x", ""), `Ann "the" Host <image@example.org>`)
	b.env = append(b.env, "BANGER_GIT_IDENTITY=none")
	b.must("run", "-d", "--name", "y")
	same(t, "without an identity", b.guest("y", "git config user.name || echo none"), "none")
}

// forwardsAgent checks that a guest may use the host's ssh agent when it is asked for, and not otherwise.
func (b *box) forwardsAgent(vm string) {
	t := b.t
	t.Helper()
	sock, key := filepath.Join(b.dir, "agent"), filepath.Join(b.dir, "key")
	agent := b.command(t.Context(), "ssh-agent", "-D", "-a", sock)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	eventually(t, "the agent listens", func() bool { _, err := os.Stat(sock); return err == nil })
	inner := *b
	inner.env = append(slices.Clone(b.env), "SSH_AUTH_SOCK="+sock)
	for _, c := range [][]string{{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "forwarded", "-f", key}, {"ssh-add", "-q", key}} {
		if r := inner.run(nil, c[0], c[1:]...); r.code != 0 {
			t.Fatalf("%v: %v", c, r)
		}
	}
	if got := inner.must("ssh", "-A", vm, "--", "ssh-add", "-l"); !strings.Contains(got, " forwarded (ED25519)") {
		t.Errorf("with -A the guest sees %q", got)
	}
	for what, args := range map[string][]string{
		"without -A": {"ssh", vm, "--", "ssh-add", "-l"},
		"an exec":    {"exec", vm, "--", "ssh-add", "-l"},
	} {
		if r := inner.banger(args...); r.code == 0 || !strings.Contains(r.stderr, "open a connection to your authentication agent") {
			t.Errorf("%s: %v", what, r)
		}
	}
	b.fails(125, []string{"SSH_AUTH_SOCK is not set"}, "ssh", "-A", vm, "--", "true")
}

// TestLoginsAreMended: whatever became of modes, owners and keys in a guest, the host can log in after the next start, and so can
// whomever its users have let in.
func TestLoginsAreMended(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("net", "none"))
	b.must("run", "-d", "--name", "x")
	const look = "stat -c '%a %U:%G' /root /root/.ssh /root/.ssh/authorized_keys; cat /root/.ssh/authorized_keys"
	whole := b.guest("x", look)
	if !strings.HasPrefix(whole, "755 root:root\n700 root:root\n600 root:root\n# banger: ") {
		t.Fatalf("at first: %q", whole)
	}
	const own = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOwn own@example.org"
	for _, how := range [][]string{{"restart", "x"}, {"stop", "x"}, {"suspend", "x"}, {"snapshot", "create", "x", "s"}, {"fork", "--name", "y", "x"}} {
		b.sub(how[0], func(t *testing.T, b *box) {
			b.guest("x", `chmod 1777 /root; chown 7:8 /root; chmod 755 /root/.ssh; chown 9 /root/.ssh
				sed -i '/^# banger/,/^# banger: end/d' /root/.ssh/authorized_keys; grep -q own@ /root/.ssh/authorized_keys || echo '`+own+`' >>/root/.ssh/authorized_keys
				chmod 666 /root/.ssh/authorized_keys`)
			vm := "x"
			switch how[0] {
			case "snapshot":
				b.must(append([]string{"vm"}, how...)...)
				b.must("vm", "snapshot", "restore", "--force", "x", "s")
				b.must("start", "x")
			case "fork":
				b.must(how...)
				vm = "y"
			default:
				b.must(how...)
				b.must("start", "x")
			}
			same(t, "after "+how[0], b.guest(vm, look), whole+"\n"+own)
		})
	}
	b.must("vm", "snapshot", "delete", "x", "s")
}
