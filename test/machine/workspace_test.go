package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// git runs git on this side, in a directory.
func (b *box) git(dir string, args ...string) string {
	b.t.Helper()
	r := b.run(nil, "git", append([]string{"-C", dir}, args...)...)
	if r.code != 0 {
		b.t.Fatal(r)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// sh runs a script on this side, in a directory.
func (b *box) script(dir, text string) string {
	b.t.Helper()
	r := b.run(nil, "sh", "-ec", "cd \"$1\"\n"+text, "sh", dir)
	if r.code != 0 {
		b.t.Fatal(r)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// digestOfTree prints one line for all that is in a tree but its repository: names, kinds, rights of execution, contents.
const digestOfTree = `find . -path ./.git -prune -o -type l -printf '%p %l\n' -o -type f -perm -100 -printf '%p x\n' -o -type f -printf '%p\n' | sort | sha256sum
find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum`

// makeRepository makes a repository with a dirty tree of every kind.
func (b *box) makeRepository() string {
	b.t.Helper()
	dir := filepath.Join(b.home, "app")
	b.script(b.home, `
git config --global user.name Hana; git config --global user.email hana@example.org
git init -q -b main app; cd app
for n in $(seq 200); do mkdir -p d$((n % 9)); echo "file $n" >d$((n % 9))/f$n; done
printf 'one\r\ntwo\r\n' >crlf; head -c 20000 /dev/urandom >binary; ln -s ../../../etc/passwd link
printf 'latin\n' >"$(printf 'caf\351')"; echo gone >deleted; echo moved >was; echo run >run.sh
git add .; git commit -q -m first
for n in $(seq 12); do echo $n >>d1/f1; git commit -q -a -m "more $n"; done
echo staged >d2/f2; git add d2/f2; echo unstaged >>d2/f2; echo unstaged >d3/f3
rm deleted; git mv was is; chmod 755 run.sh; head -c 20000 /dev/urandom >binary; echo new >new; git add new; echo secret >untracked`)
	return dir
}

// TestWorkspace: a repository in, work done in the guest, a patch out; nothing of it is lost or overwritten.
func TestWorkspace(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"), setting("disk_size", "512M"))
	repo := b.makeRepository()
	b.must("run", "-d", "--name", "x")
	b.must("run", "-d", "--name", "bare", "--image", "minimal")
	b.fails(1, []string{"has no git"}, "vm", "workspace", "prepare", "bare", repo)
	b.fails(125, []string{"has no git"}, "run", "--rm", "--image", "minimal", repo, "--", "true")
	tracked := b.script(repo, "rm untracked; "+digestOfTree+"; echo secret >untracked")

	b.sub("prepare", func(t *testing.T, b *box) {
		same(t, "path", b.must("vm", "workspace", "prepare", "x", repo), "/root/repo")
		same(t, "tree", b.guest("x", "cd repo && "+digestOfTree), tracked)
		same(t, "status", b.guest("x", "git -C repo status --porcelain"), b.git(repo, "status", "--porcelain", "-uno"))
		same(t, "HEAD", b.guest("x", "git -C repo rev-parse HEAD"), b.git(repo, "rev-parse", "HEAD"))
		same(t, "commits", b.guest("x", "git -C repo rev-list --count HEAD; git -C repo fsck --no-dangling"), "10")
		same(t, "owner", b.must("vm", "workspace", "prepare", "-u", "dev", "--guest-path", "theirs", "x", repo), "/home/dev/theirs")
		same(t, "files of others", b.must("exec", "-u", "dev", "-w", "/home/dev/theirs", "x", "--", "sh", "-c", "git status --porcelain >/dev/null && find . ! -user dev"), "")
		same(t, "recorded", len(b.show("x").Workspaces), 2)
	})
	b.sub("export", func(t *testing.T, b *box) {
		b.guest("x", "cd repo && git commit -q -a -m 'their work' && head -c 3000 /dev/urandom >binary && echo new >theirs && rm d4/f4")
		index := b.guest("x", "sha256sum <repo/.git/index; cd repo; git status --porcelain; "+digestOfTree)
		patch := filepath.Join(b.home, "patch")
		b.must("vm", "workspace", "export", "--guest-path", "/root/repo", "--include-untracked", "-o", patch, "x")
		same(t, "the guest's repository", b.guest("x", "sha256sum <repo/.git/index; cd repo; git status --porcelain; "+digestOfTree), index)
		clone := filepath.Join(b.home, "clone")
		b.git(b.home, "clone", "-q", repo, clone)
		b.git(clone, "apply", patch)
		same(t, "a clean clone with the patch", b.script(clone, digestOfTree), b.guest("x", "cd repo && "+digestOfTree))
		b.must("vm", "workspace", "export", "--guest-path", "/root/repo", "--include-untracked", "--apply", "x")
		same(t, "applied", b.script(repo, "rm untracked; "+digestOfTree), b.guest("x", "cd repo && "+digestOfTree))
	})
	b.sub("a guest that was changed", func(t *testing.T, b *box) {
		b.git(repo, "reset", "-q", "--hard")
		b.script(repo, "git clean -fdq; echo further >d5/f5; git commit -q -a -m further")
		have := b.guest("x", "cd repo && "+digestOfTree)
		b.fails(1, []string{"their work", "theirs", "--force"}, "vm", "workspace", "prepare", "--guest-path", "/root/repo", "x", repo)
		b.fails(125, []string{"their work"}, "exec", "--sync", "-w", "/root/repo", "x", "--", "true")
		same(t, "after a refusal", b.guest("x", "cd repo && "+digestOfTree), have)
		if r := b.banger("exec", "-w", "/root/repo", "x", "--", "true"); r.code != 0 || !strings.Contains(r.stderr, "moved on") {
			t.Error(r)
		}
		b.must("vm", "workspace", "prepare", "--force", "--guest-path", "/root/repo", "x", repo)
		same(t, "after --force", b.guest("x", "cd repo && "+digestOfTree+"; git status --porcelain"), b.script(repo, digestOfTree))
		same(t, "what was kept", b.guest("x", "cd repo && ref=$(git for-each-ref --format='%(refname)' refs/banger/before-*) && git log -n 1 --format=%s $ref^1 && mkdir /root/kept && git --work-tree=/root/kept checkout -q $ref -- . && git reset -q && cd /root/kept && "+digestOfTree), "their work\n"+have)
		b.script(repo, "echo onward >d6/f6; git commit -q -a -m onward")
		b.must("exec", "--sync", "-w", "/root/repo", "x", "--", "true")
		same(t, "brought again", b.guest("x", "cd repo && "+digestOfTree+"; git status --porcelain"), b.script(repo, digestOfTree))
	})
	b.sub("the remote helper", func(t *testing.T, b *box) {
		clone := filepath.Join(b.home, "from-guest")
		b.git(b.home, "clone", "-q", "banger::x/root/repo", clone)
		b.script(clone, "echo pushed >pushed; git add .; git commit -q -m pushed; git push -q")
		same(t, "pushed", b.guest("x", "cat repo/pushed; git -C repo status --porcelain"), "pushed")
		b.guest("x", "cd repo && echo fetched >pushed && git commit -q -a -m fetched")
		b.git(clone, "pull", "-q")
		b.guest("x", "echo dirty >>repo/pushed")
		b.script(clone, "echo refused >pushed; git commit -q -a -m refused; ! git push -q 2>/dev/null")
		same(t, "a dirty tree", b.guest("x", "cat repo/pushed"), "fetched\ndirty")
	})
	b.sub("run", func(t *testing.T, b *box) {
		r := b.banger("run", "--rm", "--branch", "fix", repo, "--", "sh", "-c", "pwd; git branch --show-current; exit 9")
		if r.code != 9 || r.stdout != "/root/repo\nfix\n" {
			t.Error(r)
		}
		r = b.banger("run", "--name", "x", "--guest-path", "third", filepath.Join(repo, "d1"), "--", "cat", "d5/f5")
		if r.code != 0 || r.stdout != "further\n" {
			t.Error(r)
		}
		bare := filepath.Join(b.home, "bare.git")
		b.git(b.home, "init", "-q", "--bare", bare)
		b.fails(125, []string{"bare"}, "run", "--rm", bare, "--", "true")
	})
	b.sub("sync", func(t *testing.T, b *box) {
		site := filepath.Join(b.home, "site")
		b.script(b.home, "mkdir -p site/sub; echo a >site/sub/a; echo b >site/b; touch -d @1600000000 site/b site/sub/a")
		same(t, "first", b.must("vm", "sync", "x", site+":site"), "2 files sent, 0 removed")
		same(t, "again", b.must("vm", "sync", "x", site+":site"), "0 files sent, 0 removed")
		b.script(site, "rm -r sub; echo c >b")
		same(t, "changes", b.must("vm", "sync", "--delete", "x", site+":site"), "1 files sent, 2 removed")
		same(t, "there", b.guest("x", "find site -type f; cat site/b"), "site/b\nc")
	})
	if _, err := os.Stat(filepath.Join(b.home, "patch")); err != nil {
		t.Error(err)
	}
}
