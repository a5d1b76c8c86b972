package filesync

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
	"banger/internal/config"
)

// home makes a home directory; a name that ends in a slash is a directory, a text that begins with -> a symbolic link.
func home(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "home")
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		full, parent := filepath.Join(dir, name), filepath.Dir(filepath.Join(dir, name))
		if strings.HasSuffix(name, "/") {
			parent = full
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if target, ok := strings.CutPrefix(files[name], "->"); ok {
			err = os.Symlink(target, full)
		} else if !strings.HasSuffix(name, "/") {
			err = os.WriteFile(full, []byte(files[name]), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func told(files []agentapi.File) string {
	var b strings.Builder
	for _, f := range files {
		if f.Dir {
			b.WriteString("dir ")
		}
		b.WriteString(f.Path + " " + mode(f.Mode) + " " + string(f.Data) + "\n")
	}
	return b.String()
}

func mode(m uint32) string {
	return "0" + string([]byte{'0' + byte(m>>6), '0' + byte(m>>3&7), '0' + byte(m&7)})
}

func wantWarnings(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d warnings, want %d: %q", len(got), len(want), got)
		return
	}
	for n := range got {
		if !strings.Contains(got[n], want[n]) {
			t.Errorf("warning %d is %q, want %q", n, got[n], want[n])
		}
	}
}

func TestRead(t *testing.T) {
	h := home(t, map[string]string{
		".netrc": "secret", "tool/a": "1", "tool/sub/b": "2", "tool/sub/empty/": "", "tool/run": "#!", "tool/link": "->a", "tool/out": "->/etc/passwd",
		".ssh/config": "c", ".ssh/authorized_keys": "k",
	})
	if err := os.Chmod(filepath.Join(h, "tool/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(h, "tool/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, warnings := Read(h, []config.FileSync{
		{Host: ".netrc", Guest: "/root/.netrc"},
		{Host: "tool", Guest: "/home/dev/t"},
		{Host: "tool/sub", Guest: "/root/s", Mode: 0o644},
		{Host: ".ssh", Guest: "/root/.ssh"},
	})
	want := `/root/.netrc 0600 secret
dir /home/dev/t 0700 
/home/dev/t/a 0600 1
/home/dev/t/run 0700 #!
dir /home/dev/t/sub 0700 
/home/dev/t/sub/b 0600 2
dir /home/dev/t/sub/empty 0700 
dir /root/s 0755 
/root/s/b 0644 2
dir /root/s/empty 0755 
dir /root/.ssh 0700 
/root/.ssh/config 0600 c
`
	if got := told(files); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	wantWarnings(t, warnings, "~/tool: tool/link is skipped: it is a symbolic link", "tool/out is skipped: it is a symbolic link",
		"tool/pipe is skipped: it is neither", ".ssh/authorized_keys is skipped: banger keeps")
	for _, w := range warnings {
		if strings.Contains(w, "secret") {
			t.Errorf("a warning tells what is in a file: %q", w)
		}
	}
}

// TestConfined: nothing beyond the home is read, whatever stands in the way.
func TestConfined(t *testing.T) {
	h := home(t, map[string]string{
		"fine": "1", "link": "->fine", "dirlink": "->real", "real/x": "2", "out": "->/etc", "../beside": "3", "up": "->../beside",
	})
	if err := unix.Mkfifo(filepath.Join(h, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for host, why := range map[string]string{
		"link": "symbolic link", "dirlink/x": "symbolic link", "out/passwd": "symbolic link", "up": "symbolic link",
		"missing": "no such file", "fine/x": "no such file", "pipe": "neither a file nor a directory",
		"../beside": "cannot be read", // config refuses it before
	} {
		files, warnings := Read(h, []config.FileSync{{Host: host, Guest: "/root/x"}, {Host: "fine", Guest: "/root/fine"}})
		wantWarnings(t, warnings, why)
		if told(files) != "/root/fine 0600 1\n" {
			t.Errorf("%s: read %q", host, told(files))
		}
	}
	if files, warnings := Read(h+"-no", []config.FileSync{{Host: "x"}}); files != nil || len(warnings) != 1 {
		t.Errorf("without a home: %v, %q", files, warnings)
	}
	if files, warnings := Read(h+"-no", nil); files != nil || warnings != nil {
		t.Errorf("without an entry: %v, %q", files, warnings)
	}
}

func TestTooMuch(t *testing.T) {
	big := strings.Repeat("x", maxFile)
	tree := map[string]string{"big": big + "x", "small": "1", "dir/bigger": big + "x", "dir/y": "2"}
	for _, n := range "abcdefghi" {
		tree["huge/"+string(n)] = big
	}
	files, warnings := Read(home(t, tree), []config.FileSync{
		{Host: "big", Guest: "/root/big"}, {Host: "huge", Guest: "/root/huge"}, {Host: "dir", Guest: "/root/dir"}, {Host: "small", Guest: "/root/small"},
	})
	if got := told(files); got != "dir /root/dir 0700 \n/root/dir/y 0600 2\n/root/small 0600 1\n" {
		t.Errorf("read %.300q", got)
	}
	wantWarnings(t, warnings, "~/big: it has more than 2 MiB", "~/huge: it is left out", "dir/bigger is skipped: it has more")
	links := map[string]string{}
	for n := range 30 {
		links["l/"+strings.Repeat("l", n+1)] = "->x"
	}
	_, warnings = Read(home(t, links), []config.FileSync{{Host: "l", Guest: "/root/l"}})
	if len(warnings) != maxWarnings || !strings.Contains(warnings[maxWarnings-1], "23 more") {
		t.Errorf("%d warnings: %q", len(warnings), warnings)
	}
}

func TestShare(t *testing.T) {
	sizes := func(list []agentapi.File) (out []int) {
		for _, f := range list {
			out = append(out, len(f.Data))
		}
		return out
	}
	for _, tt := range []struct{ data, along, rest []int }{
		{},
		{data: []int{10}, along: []int{10}},
		{data: []int{500, 10}, rest: []int{500, 10}},
		{data: []int{10, 10, 500, 500, 10, 2000}, along: []int{10, 10}, rest: []int{500, 500, -1, 10, -1, 2000}},
	} {
		var files []agentapi.File
		for _, n := range tt.data {
			files = append(files, agentapi.File{Data: make([]byte, n)})
		}
		along, rest := Share(files, 200, 1100)
		var flat []int
		for n, batch := range rest {
			if n > 0 {
				flat = append(flat, -1)
			}
			flat = append(flat, sizes(batch)...)
		}
		if !slices.Equal(sizes(along), tt.along) || !slices.Equal(flat, tt.rest) {
			t.Errorf("%v: %v and %v, want %v and %v", tt.data, sizes(along), flat, tt.along, tt.rest)
		}
	}
}
