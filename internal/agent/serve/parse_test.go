package serve

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"banger/api"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	p, ok := parseStat(42, "42 (a) Z ( b) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2")
	if want := (process{procID: procID{42, 9876}, parent: 7, session: 41}); !ok || p != want {
		t.Errorf("%+v", p)
	}
	for _, line := range []string{"", "42 (x", "42 (x) S 1", "42 (x) S a b c d e f g h i j k l m n o p q r s t"} {
		if _, ok := parseStat(42, line); ok {
			t.Errorf("%q was taken", line)
		}
	}
}

func TestParseSocket(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]api.Port{
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1":                                                 {Port: 8080, Address: "127.0.0.1"},
		"   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1":                                                 {Port: 22, Address: "0.0.0.0"},
		"   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1": {Port: 80, Address: "::1"},
	} {
		p, inode, ok := parseSocket(line, tcpListen)
		if !ok || p != want || inode != "1234" {
			t.Errorf("%+v %q %v", p, inode, ok)
		}
	}
	for _, line := range []string{
		"", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		"   0: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 1234 1", // established
		"   0: 0100007F:0000 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1",
		"   0: nonsense:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 1",
	} {
		if p, _, ok := parseSocket(line, tcpListen); ok {
			t.Errorf("%q was taken for %+v", line, p)
		}
	}
}

func TestLookupUser(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n# comment\nbroken:x:a:b\n1000:x:5:5::/five:\ndev:x:1000:1000::/home/dev:/bin/sh\n",
		"etc/group":  "root:x:0:\nsudo:x:27:other,dev\nadm:x:4:dev\n",
	}
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := place{Root: root}
	for spec, want := range map[string]user{
		"":         {name: "root", home: "/root", shell: "/bin/bash"},
		"dev":      {name: "dev", uid: 1000, gid: 1000, groups: []uint32{27, 4}, home: "/home/dev", shell: "/bin/sh"},
		"1000":     {name: "1000", uid: 5, gid: 5, home: "/five", shell: "/bin/sh"}, // a name counts before a number
		"dev:sudo": {name: "dev", uid: 1000, gid: 27, home: "/home/dev", shell: "/bin/sh"},
		"dev:99":   {name: "dev", uid: 1000, gid: 99, home: "/home/dev", shell: "/bin/sh"},
		"77":       {name: "77", uid: 77, home: "/", shell: "/bin/sh"},
	} {
		if got, err := p.lookupUser(spec); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", spec, got, err)
		}
	}
	for _, spec := range []string{"none", "-1", "4294967295", "dev:none", "dev:", ":sudo"} {
		if u, err := p.lookupUser(spec); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %+v, %v", spec, u, err)
		}
	}
	bare := place{Root: t.TempDir()} // an image with nothing but a static binary
	if u, err := bare.lookupUser(""); err != nil || u.uid != 0 || u.home != "/root" || u.name != "root" {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestFindProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"prog": 0o755, "plain": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=/no/such/dir:" + dir}
	for name, want := range map[string]string{"prog": dir + "/prog", "./prog": dir + "/prog", dir + "/prog": dir + "/prog"} {
		if got, err := findProgram(name, dir, env); err != nil || got != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	for name, code := range map[string]int{"none": 127, "./none": 127, "prog/x": 127, "plain": 126, "./plain": 126, "folder": 126} {
		_, err := findProgram(name, dir, env)
		var se *startError
		if !errors.As(err, &se) || se.exitCode != code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]syscall.Signal{"TERM": 15, "SIGTERM": 15, "15": 15, "term": 15, "HUP": 1, "64": 64} {
		if got, err := parseSignal(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "-9", "65", "NONE", "SIG"} {
		if got, err := parseSignal(s); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	if signalName(9) != "KILL" || signalName(40) != "40" {
		t.Errorf("%s %s", signalName(9), signalName(40))
	}
}
