package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger/internal/host"
)

// plainPath is what debugfs takes as one word that means nothing else: file names are an
// archive's, and debugfs has a command language (trap 42).
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_./+][A-Za-z0-9_./+:@-]*$`)

// setCapabilities writes the files' capabilities (ping's, say) into the finished disk.
// fakeroot 1.31 keeps no extended attributes in its state, and setting one before
// it knows the file makes it forget the file's type.
func (s *Service) setCapabilities(ctx context.Context, u *unpacker, work, disk string) error {
	var names []string
	for name, n := range u.nodes {
		if n.capability == nil {
			continue
		}
		if !plainPath.MatchString(name) {
			u.dropped["capability of a file with an odd name"]++
			continue
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	script, value := filepath.Join(work, "debugfs.script"), filepath.Join(work, "capability")
	defer os.Remove(script)
	var b bytes.Buffer
	for i, name := range names {
		file := fmt.Sprintf("%s.%d", value, i)
		if err := os.WriteFile(file, u.nodes[name].capability, 0o600); err != nil {
			return diskError(err)
		}
		defer os.Remove(file)
		// Relative, since the state directory's path may have blanks in it.
		fmt.Fprintf(&b, "ea_set -f %s /%s security.capability\n", filepath.Base(file), name)
	}
	if err := os.WriteFile(script, b.Bytes(), 0o600); err != nil {
		return diskError(err)
	}
	debugfs, err := s.Host.LookPath("debugfs")
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	err = s.Host.Run(ctx, host.Command{Path: debugfs, Args: []string{"-w", "-f", script, disk}, Dir: work, Stderr: &stderr})
	if err != nil {
		return fmt.Errorf("cannot set capabilities: %w", err)
	}
	// debugfs exits with 0 whatever happens; its first line is its version.
	_, complaints, _ := strings.Cut(stderr.String(), "\n")
	if c := strings.TrimSpace(complaints); c != "" {
		return fmt.Errorf("cannot set capabilities: debugfs: %s", c)
	}
	return nil
}
