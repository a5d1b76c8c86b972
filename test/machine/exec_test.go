package machine

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExec: exit codes, streams and arguments arrive as they were.
func TestExec(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none")

	b.sub("exit codes", func(t *testing.T, b *box) {
		for _, tt := range []struct {
			code int
			argv []string
		}{
			{0, []string{"true"}},
			{42, []string{"sh", "-c", "exit 42"}},
			{127, []string{"no-such-program"}},
			{126, []string{"/etc/passwd"}},
			{128 + 15, []string{"sh", "-c", "kill -TERM $$"}},
			{128 + 9, []string{"sh", "-c", "kill -KILL $$"}},
			{124, []string{}}, // filled in below: --timeout
		} {
			args := append([]string{"exec", "x", "--"}, tt.argv...)
			if tt.code == 124 {
				args = []string{"exec", "--timeout", "1s", "x", "--", "sleep", "600"}
			}
			if r := b.banger(args...); r.code != tt.code {
				t.Errorf("want %d: %v", tt.code, r)
			}
		}
	})

	b.sub("arguments are a vector", func(t *testing.T, b *box) {
		// Joined and split again, each of these would come out otherwise (trap 23).
		want := "<a b><$HOME><'><\"><><*><\\n>\n"
		r := b.banger("exec", "x", "--", "sh", "-c", `printf '<%s>' "$@"; echo`, "-", "a b", "$HOME", "'", `"`, "", "*", `\n`)
		same(t, "argv", r.stdout, want)
	})

	b.sub("memory that is full does not end the agent", func(t *testing.T, b *box) {
		b.must("session", "start", "--name", "oom", "x", "--", "sh", "-c", "cat /proc/self/oom_score_adj; exec sleep 600")
		for range 3 { // a command gives the protection up, and it comes back
			same(t, "a command", b.guest("x", "cat /proc/self/oom_score_adj"), "0")
		}
		same(t, "a command of dev's", b.must("exec", "-u", "1000", "x", "--", "cat", "/proc/self/oom_score_adj"), "0")
		same(t, "the agent and the session's holder", b.guest("x", `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline)" in "@banger-agent "*|"@banger-hold "*) cat $p/oom_score_adj;; esac; done`), "-900\n-900")
		same(t, "the session's command", b.must("session", "logs", "x", "oom"), "0")
		b.must("session", "kill", "x", "oom")
		b.must("exec", "--timeout", "3m", "x", "--", "sh", "-c", "head -c 2G /dev/zero | tail >/dev/null; true")
		same(t, "it answers still", b.guest("x", "cat /proc/self/oom_score_adj"), "0")
	})

	b.sub("streams are apart", func(t *testing.T, b *box) {
		r := b.banger("exec", "x", "--", "sh", "-c", "echo out; echo err >&2")
		same(t, "stdout", r.stdout, "out\n")
		same(t, "stderr", r.stderr, "err\n")
	})

	b.sub("1 MiB through stdin to stdout", func(t *testing.T, b *box) {
		data := noise(1 << 20)
		r := b.run(bytes.NewReader(data), filepath.Join(b.bin, "banger"), "exec", "-i", "x", "--", "cat")
		same(t, "exit code", r.code, 0)
		same(t, "bytes", len(r.stdout), len(data))
		same(t, "sha256", sha256.Sum256([]byte(r.stdout)), sha256.Sum256(data))
	})

	b.sub("without -i the caller's stdin is not eaten", func(t *testing.T, b *box) {
		script := `banger exec x -- cat; cat`
		r := b.run(strings.NewReader("mine\n"), "sh", "-c", script)
		same(t, "what the script's own cat got", r.stdout, "mine\n")
	})

	b.sub("environment, directory", func(t *testing.T, b *box) {
		r := b.banger("exec", "-e", "A=1 2", "-w", "/tmp", "x", "--", "sh", "-c", `echo "$A"; pwd; id -u`)
		same(t, "stdout", r.stdout, "1 2\n/tmp\n0\n")
	})

	b.sub("returns when its own process has ended", func(t *testing.T, b *box) {
		begin := time.Now()
		r := b.banger("exec", "x", "--", "sh", "-c", "sleep 600 & echo $!")
		if took := time.Since(begin); took > patience(60*time.Second) {
			t.Errorf("waited %s for a background child", took)
		}
		// The child lives on.
		same(t, "exit code", b.banger("exec", "x", "--", "kill", "-0", strings.TrimSpace(r.stdout)).code, 0)
	})

	b.sub("a timeout ends all that the command started", func(t *testing.T, b *box) {
		r := b.banger("exec", "--timeout", "1s", "x", "--", "sh", "-c", "trap '' TERM; sleep 601 & sleep 602; wait")
		same(t, "exit code", r.code, 124)
		if left := b.guest("x", "ps | grep 'sleep 60[12]' | grep -v grep || true"); left != "" {
			t.Errorf("still runs: %s", left)
		}
	})
}

// noise is bytes that no compression or text mode leaves alone; the same in every run.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	data := make([]byte, n)
	_, _ = r.Read(data) // never fails
	return data
}
