package system

import (
	"flag"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"banger/internal/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

func options(t *testing.T, kind Kind) Options {
	t.Helper()
	cfg, err := config.Load(config.Inputs{UID: 0, Environ: []string{"HOME=/root"}})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Kind: kind, Config: cfg, Dir: t.TempDir(), Programs: filepath.Join(t.TempDir(), "bin"), UserUnits: "/home/u/.config/systemd/user"}
	if kind == Helped {
		o.User = &user.User{Username: "alice", Uid: "1000", Gid: "1000"}
	}
	if err := os.Mkdir(o.Programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs() {
		if err := os.WriteFile(filepath.Join(o.Programs, p), []byte(p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// TestConfiguredFirecracker: bangerd-root runs the one that the daemon will ask for.
func TestConfiguredFirecracker(t *testing.T) {
	o := options(t, Helped)
	var err error
	if o.Config, err = config.Load(config.Inputs{UID: 0, Environ: []string{"HOME=/root", "BANGER_FIRECRACKER_BIN=/opt/my fc/firecracker", "BANGER_JAILER_BIN=auto"}}); err != nil {
		t.Fatal(err)
	}
	text, err := o.helper()
	if err != nil || !strings.Contains(text, ` --firecracker "/opt/my fc/firecracker"`+"\n") || strings.Contains(text, "--jailer") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestUnits(t *testing.T) {
	for _, kind := range []Kind{Helped, Root, User} {
		o := options(t, kind)
		if kind == User {
			o.Programs = "/home/u/my programs"
		}
		texts, err := o.texts()
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range texts {
			path := filepath.Join("testdata", string(kind)+"-"+name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || got != string(want) {
				t.Errorf("%s differs (go test ./internal/system -update writes it); got:\n%s%v", path, got, err)
			}
			// What makes VMs outlive the services (traps 8 and 12).
			if name == vmsUnit {
				continue
			}
			for _, line := range []string{"Type=notify", "KillMode=process", "SendSIGKILL=no", "OOMPolicy=continue"} {
				if !strings.Contains(got, "\n"+line+"\n") {
					t.Errorf("%s has no %s", path, line)
				}
			}
		}
	}
}

// TestCapabilities: every name is one, and the unit gives bangerd-root no more than it keeps.
func TestCapabilities(t *testing.T) {
	for _, list := range []string{needed(), unneeded} {
		for _, name := range strings.Fields(list) {
			if !regexp.MustCompile(`^CAP_[A-Z_]+$`).MatchString(name) {
				t.Errorf("%q", name)
			}
		}
	}
	for _, name := range strings.Fields(needed()) {
		if strings.Contains(" "+unneeded+" ", " "+name+" ") {
			t.Errorf("%s is needed and unneeded", name)
		}
	}
}

// TestInstallAgain: over itself, over another kind, and away again, with nothing left and nothing of others touched.
func TestInstallAgain(t *testing.T) {
	o := options(t, Helped)
	theirs := o.path(linkDir + "/git-remote-banger")
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(theirs, []byte("theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Install(o); err != nil {
			t.Fatal(err)
		}
	}
	fi, err := os.Stat(o.path(programDir + "/bangerd-root"))
	if err != nil || fi.Mode() != 0o755 {
		t.Errorf("%v, %v", fi, err)
	}
	s, err := Look(o)
	if err != nil || s.Kind != Helped || s.User != "alice" || len(s.Units) != 3 || len(s.Files) != 3+len(programs())+1 {
		t.Errorf("%+v, %v", s, err)
	}
	o.Kind, o.User = Root, nil
	if err := Install(o); err != nil {
		t.Fatal(err)
	}
	if s, err = Look(o); err != nil || s.Kind != Root || len(s.Units) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	machines := o.path(config.SystemState + "/vms/a")
	if err := os.MkdirAll(machines, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(o, false); err != nil {
		t.Fatal(err)
	}
	if !there(machines) || there(o.path(programDir)) {
		t.Error("machines are gone, or programs are there")
	}
	if err := Uninstall(o, true); err != nil {
		t.Fatal(err)
	}
	var left []string
	err = filepath.WalkDir(o.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, path)
		}
		return err
	})
	if err != nil || len(left) != 1 || left[0] != theirs {
		t.Errorf("left: %v, %v", left, err)
	}
}
