package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// commandTime bounds every command of a test: longer than banger's own bounds, so that a
// hang is banger's failure and not ours.
const commandTime = 4 * time.Minute

// result is how a command ended.
type result struct {
	args           []string
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// command prepares a program to run in the box's namespace, as its user.
func (b *box) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	argv := []string{"nsenter", "--net=" + b.net.path()}
	if b.outside {
		argv = nil
	}
	if b.bootID != "" {
		argv = append(argv, "unshare", "--mount", "--propagation", "slave", "sh", "-c",
			`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, b.bootID)
	}
	if b.uid != 0 {
		argv = append(argv, "setpriv", fmt.Sprintf("--reuid=%d", b.uid), fmt.Sprintf("--regid=%d", b.gid), "--init-groups", "--")
	}
	argv = append(append(argv, program), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = b.env, b.home
	// A daemon that the command starts must not keep us waiting for its copy of a pipe.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs any program in the box.
func (b *box) run(stdin io.Reader, program string, args ...string) result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience(commandTime))
	defer cancel()
	cmd := b.command(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		b.t.Errorf("%s %s took longer than %s\nstdout: %s\nstderr: %s", program, strings.Join(args, " "), patience(commandTime), out.String(), errs.String())
	} else if cmd.ProcessState == nil {
		b.t.Fatalf("cannot run %s: %v", program, err)
	}
	code := cmd.ProcessState.ExitCode()
	return result{append([]string{filepath.Base(program)}, args...), code, out.String(), errs.String()}
}

func (b *box) banger(args ...string) result {
	b.t.Helper()
	return b.run(nil, filepath.Join(b.bin, "banger"), args...)
}

// must runs banger, which must succeed, and returns what it printed without the last newline.
func (b *box) must(args ...string) string {
	b.t.Helper()
	r := b.banger(args...)
	if r.code != 0 {
		b.t.Fatal(r)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// fails runs banger, which must end with the code and say all the words on stderr.
func (b *box) fails(code int, words []string, args ...string) result {
	b.t.Helper()
	r := b.banger(args...)
	if r.code != code {
		b.t.Errorf("want exit %d: %v", code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			b.t.Errorf("stderr lacks %q: %v", w, r)
		}
	}
	return r
}

// guest runs a shell line in a VM as root.
func (b *box) guest(vm, line string) string {
	b.t.Helper()
	return b.must("exec", vm, "--", "sh", "-c", line)
}

// show is a VM as the API gives it.
func (b *box) show(ref string) api.VM {
	b.t.Helper()
	var vm api.VM
	decode(b.t, b.must("show", "--json", ref), &vm)
	return vm
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

// same fails the test unless both are equal.
func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// patient is how long a test waits before it calls something a hang: nobody is measured by it, and a loaded machine is no failure.
const patient = 3 * time.Minute

// eventually waits for what no event tells us about (another program's state).
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within := patience(patient)
	for begin := time.Now(); !ok(); {
		if time.Since(begin) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// awaitText reads until the program has said the words; the rest is read and dropped.
func awaitText(t *testing.T, r io.Reader, words string) {
	t.Helper()
	found := make(chan bool, 1)
	go func() {
		var seen []byte
		buf := make([]byte, 4096)
		for told := false; ; {
			n, err := r.Read(buf)
			if seen = append(seen, buf[:n]...); !told && bytes.Contains(seen, []byte(words)) {
				told = true
				found <- true
			}
			if err != nil {
				if !told {
					found <- false
				}
				return
			}
		}
	}()
	select {
	case ok := <-found:
		if !ok {
			t.Fatalf("the program ended without saying %q", words)
		}
	case <-time.After(patience(patient)):
		t.Fatalf("the program did not say %q within a minute", words)
	}
}
