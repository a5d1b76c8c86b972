package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/loud"
)

// TestAsOrdinaryUser runs this file's neighbours again with no rights at all.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		loud.Skip(t, "becoming another user needs root")
	}
	out := asUser(t, nobody, nobody, "/nonexistent", "^(TestBuildMinimal|TestBuildKernel|TestImportTar|TestImportDirAndExt4|TestReconcile)$")
	if n := strings.Count(out, "--- PASS"); n != 5 {
		t.Errorf("%d of 5 tests passed as nobody:\n%s", n, out)
	}
}

// asUser runs this test program's tests under another uid.
func asUser(t *testing.T, uid, gid int, home, tests string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "banger-user-*") // t.TempDir's parents are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	temp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(temp, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	program := filepath.Join(dir, "image.test")
	copied, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(copied, self); err != nil {
		t.Fatal(err)
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = local.New().Run(t.Context(), host.Command{
		Path: program, Args: []string{"-test.v", "-test.run", tests}, Dir: temp, UID: uid, GID: gid, Stdout: &out,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + temp, "BANGER_TEST_NO_SKIP=1"},
	})
	if err != nil {
		t.Fatalf("as uid %d: %v\n%s", uid, err, out.String())
	}
	return out.String()
}

// TestLongDebianAsOrdinaryUser makes a user with subordinate ids, as adduser does, and builds as that user.
func TestLongDebianAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		loud.Skip(t, "making a user needs root")
	}
	const name = "banger-test-image"
	h := local.New()
	run := func(program string, args ...string) error {
		return h.Run(context.WithoutCancel(t.Context()), host.Command{Path: program, Args: args})
	}
	_ = run("userdel", name) // of a run that was killed
	if err := run("useradd", "--create-home", "--base-dir", t.TempDir(), "--add-subids-for-system", "--system", name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run("userdel", name); err != nil {
			t.Error(err)
		}
	})
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	before := scratches(t)
	out := asUser(t, uid, gid, u.HomeDir, "^(TestLongBuildDebian|TestLongDebianScriptFails|TestLongDebianCancelled)$")
	t.Log(out)
	if n := strings.Count(out, "--- PASS"); n != 3 {
		t.Errorf("%d of 3 tests passed as %s", n, name)
	}
	if after := scratches(t); after != before {
		t.Errorf("builds left directories behind: %d before, %d after", before, after)
	}
}

func scratches(t *testing.T) int {
	t.Helper()
	left, err := filepath.Glob("/tmp/banger-image-*")
	if err != nil {
		t.Fatal(err)
	}
	return len(left)
}

func TestSubordinates(t *testing.T) {
	const text = "root:1:2\nann:100000:65536\nannabel:200000:65536\n\nbroken\n"
	for name, want := range map[string]bool{"ann": true, "annabel": true, "anna": false, "broken": false, "": false} {
		if hasSubordinates(text, name) != want {
			t.Errorf("%q: not %v", name, want)
		}
	}
}
