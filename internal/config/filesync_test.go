package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func loadFile(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Inputs{Environ: append(environ, "HOME=/home/u", "BANGER_CONFIG_DIR="+dir), UID: 1000, Host: testHost("/home/u")})
}

func TestFileSync(t *testing.T) {
	want := []FileSync{
		{Host: ".netrc", Guest: "/root/.netrc"},
		{Host: ".config/tool", Guest: "/home/dev/.config/tool", Mode: 0o640},
		{Host: "bin/x", Guest: "/root/y", Mode: 0o755},
	}
	tables := `
[[file_sync]]
host = "~/.netrc"
[[file_sync]]
host = "/home/u//.config/./tool/"
guest = "/home/dev/.config/tool"
mode = "0640"
[[file_sync]]
host = "~/bin/x"
guest = "~/y"
mode = 0o755
`
	for _, text := range []string{tables, `file_sync = [ {host = "~/.netrc"}, {host = "~/.config/tool", guest = "/home/dev/.config/tool", mode = "640"}, {host = "~/bin/x", guest = "/root/y", mode = "0o755"} ]`} {
		c, err := loadFile(t, text)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(c.FileSync, want) {
			t.Errorf("got %+v, want %+v", c.FileSync, want)
		}
		for _, v := range c.Values() {
			if v.Key == "file_sync" && (v.Source != FromFile || v.Value != "~/.netrc:/root/.netrc ~/.config/tool:/home/dev/.config/tool ~/bin/x:/root/y") {
				t.Errorf("shown as %+v", v)
			}
		}
	}
}

func TestFileSyncRefused(t *testing.T) {
	for entry, why := range map[string]string{
		`guest = "~/x"`:                           "host is missing",
		`host = "~/../other/x"`:                   `entry 2 (host = "~/../other/x"): host contains ".."`,
		`host = "~/a/../b"`:                       `host contains ".."`,
		`host = "/etc/shadow"`:                    "host is not below the home directory /home/u",
		`host = "/home/u2/x"`:                     "host is not below the home directory /home/u",
		`host = "/home/u"`:                        "host is not below",
		`host = "~/"`:                             "host is not below",
		`host = "~//etc/x"`:                       "host is not below",
		`host = "~"`:                              "host is not below",
		`host = "~other/x"`:                       "host is not below",
		`host = "x"`:                              "host is not below",
		`host = "~/x\u0000y"`:                     "zero byte",
		`host = 7`:                                "host is no text",
		"host = \"~/x\"\nguest = \"/etc/passwd\"": "guest is not below the home directory /root or /home/USER",
		"host = \"~/x\"\nguest = \"/home/dev\"":   "guest is not below",
		"host = \"~/x\"\nguest = \"/root\"":       "guest is not below",
		"host = \"~/x\"\nguest = \"root/x\"":      "guest is not below",
		"host = \"~/x\"\nguest = \"\"":            "guest is missing",
		"host = \"~/x\"\nguest = \"~/../etc/x\"":  `guest contains ".."`,
		"host = \"~/.ssh/authorized_keys\"":       "kept by banger itself",
		"host = \"~/x\"\nmode = \"rw\"":           "mode is rw",
		"host = \"~/x\"\nmode = \"4755\"":         "mode is 4755",
		"host = \"~/x\"\nmode = \"-1\"":           "mode is -1",
		"host = \"~/x\"\nmode = true":             "mode is true",
		"host = \"~/x\"\nowner = \"me\"":          `it has "owner"`,
	} {
		_, err := loadFile(t, "[[file_sync]]\nhost = \"~/fine\"\n[[file_sync]]\n"+entry)
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "entry 2 (") {
			t.Errorf("%s: %v, want %q", entry, err, why)
		}
	}
	for text, why := range map[string]string{
		`file_sync = "~/x"`:             "config.toml alone",
		`file_sync = ["~/x"]`:           "not a single value",
		"[[file_sink]]\nhost = \"~/x\"": "not a single value",
		"[[cpus]]\nhost = \"~/x\"":      "cpus is not a single value",
		"[file_sync]\nhost = \"~/x\"":   "unknown key",
	} {
		if _, err := loadFile(t, text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", text, err, why)
		}
	}
	if _, err := loadFile(t, "", "BANGER_FILE_SYNC=~/x"); err == nil || !strings.Contains(err.Error(), "config.toml alone") {
		t.Errorf("by the environment: %v", err)
	}
	if _, err := Load(Inputs{Environ: nil, UID: 1000, Host: testHost("/")}); err != nil {
		t.Error(err)
	}
}
