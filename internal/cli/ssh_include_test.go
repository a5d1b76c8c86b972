package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestEditInclude(t *testing.T) {
	const line = `Include "/s/banger/ssh/config"`
	const block = "# banger: begin\n" + line + "\n# banger: end\n"
	for _, tt := range []struct{ name, before, after string }{
		{"empty", "", block},
		{"a Host block", "Host a\n  User b\n", block + "Host a\n  User b\n"},
		{"no last newline", "Host a", block + "Host a"},
		{"another Include stays", "Include other\n\n\nHost a\n", block + "Include other\n\n\nHost a\n"},
		{"an old block moves", "Host a\n# banger: begin\nInclude \"/old\"\n# banger: end\nHost b\n", block + "Host a\nHost b\n"},
		{"CRLF stays", "Host a\r\n  User b\r\n", block + "Host a\r\n  User b\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), ".ssh", "config")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.before), 0o640); err != nil {
				t.Fatal(err)
			}
			edit := func(include string, wantChanged bool, want string) {
				t.Helper()
				changed, err := editInclude(path, include)
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != want || changed != wantChanged {
					t.Errorf("changed %v, got:\n%q\nwant %v:\n%q", changed, got, wantChanged, want)
				}
			}
			edit(line, true, tt.after)
			edit(line, false, tt.after)
			edit("", true, tt.after[len(block):])
			edit("", false, tt.after[len(block):])
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestEditIncludeWithoutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".ssh", "config")
	if changed, err := editInclude(path, ""); err != nil || changed {
		t.Errorf("removing from nothing: %v, %v", changed, err)
	}
	if _, err := editInclude(path, `Include "/x"`); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", dir.Mode(), err)
	}
	if file, err := os.Stat(path); err != nil || file.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", file.Mode(), err)
	}
}

func TestEditIncludeHalfBlock(t *testing.T) {
	for _, text := range []string{"# banger: begin\nHost mine\n", "# banger: begin\nInclude x\nHost mine\n# banger: end\n"} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := editInclude(path, ""); err == nil {
			t.Errorf("%q was taken for banger's", text)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("the file was changed: %q, %v", got, err)
		}
	}
}

// TestEditIncludeLink: a configuration that is a link to a file under version control stays one.
func TestEditIncludeLink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "config")
	if err := os.WriteFile(real, []byte("Host a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if _, err := editInclude(link, `Include "/x"`); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info.Mode(), err)
	}
}
