package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"banger/api/agentapi"
)

// tools are the file system programs from the initramfs, run by their own loader
// with their own libraries, since an image may have neither.
type tools struct{ dir string }

// run runs a program and returns its exit code with what it printed. The error is
// for a program that could not run to its end.
func (t tools) run(ctx context.Context, program string, args ...string) (int, string, error) {
	path := filepath.Join(t.dir, program)
	loader := filepath.Join(t.dir, agentapi.ToolLoader)
	argv := append([]string{path}, args...)
	if _, err := os.Stat(loader); err == nil {
		argv = append([]string{loader, "--library-path", filepath.Join(t.dir, agentapi.ToolLibraries)}, argv...)
	}
	// A mke2fs.conf of the image may name features that this mke2fs does not have.
	return runCommand(ctx, []string{"MKE2FS_CONFIG=/nonexistent", "E2FSCK_CONFIG=/nonexistent", "LC_ALL=C"}, argv...)
}

// runCommand runs argv to its end, its output cut to the last lines.
func runCommand(ctx context.Context, env []string, argv ...string) (int, string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=" + cleanPath}, env...)
	cmd.Dir = "/"
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	if len(text) > 2000 {
		text = text[len(text)-2000:]
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), text, nil
	}
	if err != nil {
		return -1, text, fmt.Errorf("cannot run %s: %w", filepath.Base(argv[0]), err)
	}
	return 0, text, nil
}

// makeExt4 formats a blank device.
func (t tools) makeExt4(ctx context.Context, dev string) error {
	code, out, err := t.run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "1", "-L", "banger-work",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", dev)
	if err == nil && code != 0 {
		err = fmt.Errorf("mke2fs ended with %d: %s", code, out)
	}
	if err != nil {
		return fmt.Errorf("cannot format %s: %w", dev, err)
	}
	return nil
}

// checkExt4 mends what can be mended without a question. Codes as in e2fsck(8):
// 1 and 2 mean mended.
func (t tools) checkExt4(ctx context.Context, dev string) error {
	code, out, err := t.run(ctx, "e2fsck", "-p", dev)
	if err == nil && code > 2 {
		err = fmt.Errorf("e2fsck ended with %d: %s", code, out)
	}
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", dev, err)
	}
	return nil
}

// mountChecked mounts an ext4 disk, checking it first if it asks for that, or when
// the kernel cannot mount it as it is. A journal is replayed by the kernel.
func (t tools) mountChecked(ctx context.Context, dev, target string, what content) error {
	if what == contentDamaged {
		if err := t.checkExt4(ctx, dev); err != nil {
			return err
		}
	}
	err := mountExt4(dev, target)
	if err == nil || what != contentExt4 {
		return err
	}
	if checkErr := t.checkExt4(ctx, dev); checkErr != nil {
		return errors.Join(err, checkErr)
	}
	return mountExt4(dev, target)
}
