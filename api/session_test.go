package api

import (
	"regexp"
	"strings"
	"testing"
)

func TestSessionName(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"make": "make", "/usr/bin/Python3.11": "python3-11", "": "session", "--": "session", "été": "t", "main": "main-2",
		strings.Repeat("x-", 40): strings.TrimSuffix(strings.Repeat("x-", 25), "-"), "taken": "taken-3", "_a_": "a",
	} {
		taken := map[string]bool{"taken": true, "taken-2": true}
		got := SessionName([]string{command}, func(name string) bool { return taken[name] })
		if got != want {
			t.Errorf("%q: %q, want %q", command, got, want)
		}
		if err := (SessionCreate{Name: got, Argv: []string{"x"}}).Validate(); err != nil {
			t.Errorf("%q: %v", got, err)
		}
	}
}

func TestSessionCreate(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]SessionCreate{
		"no command": {},
		"main":       {Argv: []string{"x"}, Name: "main"},
		"a name":     {Argv: []string{"x"}, Name: "A_b"},
		"stdin":      {Argv: []string{"x"}, Stdin: "open"},
		"require":    {Argv: []string{"x"}, Require: []string{""}},
		"label":      {Argv: []string{"x"}, Labels: map[string]string{"-": ""}},
		"cwd":        {Argv: []string{"x"}, Cwd: "relative"},
		"env":        {Argv: []string{"x"}, Env: []string{"X"}},
	} {
		if CodeOf(bad.Validate()) != CodeInvalid {
			t.Errorf("%s is let through", name)
		}
	}
	tty := SessionCreate{Argv: []string{"x"}, TTY: true}
	if !tty.Exec().Stdin || (SessionCreate{Argv: []string{"x"}}).Exec().Stdin {
		t.Error("a terminal's stdin is a pipe, and only that")
	}
	tty.Stdin = StdinClosed
	if tty.Exec().Stdin {
		t.Error("closed is closed")
	}
}

// FuzzNames holds the rules to the expressions that they are in other words.
func FuzzNames(f *testing.F) {
	label := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)
	key := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?\z`)
	object := regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\z`)
	for _, s := range []string{"", "a", "-", "a-", "-a", "a-b", "a.b", "A/b", "é", "a\n", strings.Repeat("x", 63), strings.Repeat("x", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if isDNSLabel(s) != label.MatchString(s) || isLabelKey(s) != key.MatchString(s) || isObjectName(s) != object.MatchString(s) {
			t.Errorf("%q: %v %v %v", s, isDNSLabel(s), isLabelKey(s), isObjectName(s))
		}
	})
}
