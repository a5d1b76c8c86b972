package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "banger"

// listed is what `go list -json` says of a package.
type listed struct {
	Dir        string
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
}

// packages lists our packages. Build tags are not varied: banger is for Linux only.
func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=Dir,ImportPath,Doc,Imports,GoFiles", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// local is the path within the module; false for packages of others.
func local(importPath string) (string, bool) { return strings.CutPrefix(importPath, module+"/") }

// match knows "a/b" for one package and "a/b/..." for it and all below it.
func match(pattern, pkg string) bool {
	base, tree := strings.CutSuffix(pattern, "...")
	if !tree {
		return pattern == pkg
	}
	return strings.HasPrefix(pkg+"/", base)
}

func matchAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, pkg) })
}

// offence says why pkg must not import dep; empty if it may.
func offence(pkg, dep string) string {
	i := slices.IndexFunc(rules, func(r rule) bool { return match(r.pkg, pkg) })
	if i < 0 {
		return "no rule for " + pkg + " in rules_test.go: say what it may import and why"
	}
	r := rules[i]
	own := strings.TrimSuffix(r.pkg, "/...")
	if matchAny(r.may, dep) || (own != r.pkg && match(own+"/...", dep)) {
		return ""
	}
	if slices.Contains(anyone, dep) && !slices.Contains(anyone, pkg) && pkg != "api" && pkg != "api/agentapi" {
		return ""
	}
	return pkg + " must not import " + dep + ": " + r.why
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		pkg, ok := local(p.ImportPath)
		if !ok {
			continue
		}
		for _, imp := range p.Imports {
			dep, ours := local(imp)
			if ours {
				if why := offence(pkg, dep); why != "" {
					t.Error(why)
				}
			}
			for _, d := range doors {
				if (imp == d.pkg || ours && dep == d.pkg) && !matchAny(d.may, pkg) {
					t.Errorf("%s must not import %s: %s", pkg, d.pkg, d.why)
				}
			}
		}
	}
}

// TestRulesBite holds the table to what it must forbid, so that a typing error in it shows.
func TestRulesBite(t *testing.T) {
	for _, bad := range [][2]string{
		{"api", "internal/config"}, {"client", "internal/vm"}, {"internal/cli", "internal/vm"},
		{"internal/cli", "internal/host"}, {"internal/vm", "internal/server"}, {"internal/store", "internal/host"},
		{"internal/host/local", "internal/vm"}, {"internal/agent", "internal/host"}, {"internal/config", "api"},
		{"internal/hypervisor/qemu", "internal/network"}, {"internal/server", "internal/cli"}, {"cmd/banger", "internal/daemon"},
		{"internal/disk/qcow2", "internal/store"}, {"internal/vm", "internal/host/local"}, {"internal/new", "api"},
	} {
		if offence(bad[0], bad[1]) == "" {
			t.Errorf("the rules let %s import %s", bad[0], bad[1])
		}
	}
	for _, good := range [][2]string{
		{"internal/vm", "internal/network"}, {"internal/cli", "client"}, {"internal/hypervisor/qemu", "internal/hypervisor"},
		{"internal/agent", "internal/frame/link"}, {"internal/daemon", "internal/host/local"}, {"internal/server", "internal/keylock"},
	} {
		if why := offence(good[0], good[1]); why != "" {
			t.Error(why)
		}
	}
}

func TestMountsAreBehindTheDoor(t *testing.T) {
	calls := []string{"Mount", "Unmount", "MountSetattr", "Fsmount", "Fsopen", "MoveMount", "OpenTree", "PivotRoot", "Chroot"}
	eachFile(t, func(pkg, file string, f *ast.File) {
		if matchAny(mounting.may, pkg) {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "unix" || x.Name == "syscall") && slices.Contains(calls, s.Sel.Name) {
				t.Errorf("%s calls %s.%s: %s", file, x.Name, s.Sel.Name, mounting.why)
			}
			return true
		})
	})
}

// TestNoCommandContext: a child bound to a request dies with it (traps.md calls this
// the classic). host.Run kills by process group itself; tests and the guest's side start no VMMs.
func TestNoCommandContext(t *testing.T) {
	eachFile(t, func(pkg, file string, f *ast.File) {
		if match("test/...", pkg) || match("internal/agent/...", pkg) {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "CommandContext" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "exec" {
					t.Errorf("%s uses exec.CommandContext: a VMM started so dies with its request", file)
				}
			}
			return true
		})
	})
}

func TestPackagesSayWhatTheyOwn(t *testing.T) {
	for _, p := range packages(t) {
		pkg, ok := local(p.ImportPath)
		if !ok || len(p.GoFiles) == 0 {
			continue
		}
		if len(strings.Fields(p.Doc)) < 6 {
			t.Errorf("%s has no doc comment that says what it owns and who may import it (%q)", pkg, p.Doc)
		}
		if slices.Contains(nameless, path.Base(pkg)) {
			t.Errorf("%s: %q is no noun; name the folder after what it owns", pkg, path.Base(pkg))
		}
	}
}

// eachFile parses every Go file of ours that is not a test.
func eachFile(t *testing.T, visit func(pkg, file string, f *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	for _, p := range packages(t) {
		pkg, ok := local(p.ImportPath)
		if !ok {
			continue
		}
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			visit(pkg, pkg+"/"+name, f)
		}
	}
}
