package initramfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/loud"
)

// kernelModules is the modules of the kernel in BANGER_TEST_KERNEL_DIR, or of the one that scripts/machine-state
// has prepared.
func kernelModules(t *testing.T) string {
	t.Helper()
	pattern := "../../../.cache/test-state/kernels/*/boot/*/modules.dep"
	if dir := os.Getenv("BANGER_TEST_KERNEL_DIR"); dir != "" {
		pattern = filepath.Join(dir, "lib/modules/*/modules.dep")
	}
	found, _ := filepath.Glob(pattern)
	if len(found) != 1 {
		loud.Skip(t, "%s: %d kernels; give one in BANGER_TEST_KERNEL_DIR, or run scripts/machine-state", pattern, len(found))
	}
	return filepath.Dir(found[0])
}

// writeTree makes a fake lib/modules/VERSION whose modules are described by depmod's files.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(mods []module) []string {
	out := []string{}
	for _, m := range mods {
		out = append(out, m.Name)
	}
	return out
}

func TestResolveByDepmodFiles(t *testing.T) {
	dir := writeTree(t, map[string]string{
		"kernel/a-top.ko.xz": "", "kernel/mid.ko.xz": "", "kernel/low.ko.xz": "", "kernel/other.ko.xz": "",
		"modules.dep":     "kernel/a-top.ko.xz: kernel/mid.ko.xz kernel/low.ko.xz kernel/in.ko\nkernel/mid.ko.xz: kernel/low.ko.xz\nkernel/low.ko.xz:\n",
		"modules.alias":   "alias virtio:d00000002v* a_top\nalias pci:v00001AF4d* a_top\n",
		"modules.builtin": "kernel/in.ko\n",
	})
	mods, err := resolveModules(dir, []string{"a_top", "in", "missing?"})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(mods); !slices.Equal(got, []string{"low", "mid", "a_top"}) {
		t.Errorf("order %v", got)
	}
	top := mods[2]
	if !slices.Equal(top.Virtio, []uint32{2}) || !top.Wanted || mods[0].Wanted {
		t.Errorf("top is %+v, low is %+v", top, mods[0])
	}
	if _, err := resolveModules(dir, []string{"missing"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing module gave %v", err)
	}
}

func TestResolveRefusesCircle(t *testing.T) {
	dir := writeTree(t, map[string]string{"a.ko.xz": "", "b.ko.xz": "", "modules.alias": "",
		"modules.dep": "a.ko.xz: b.ko.xz\nb.ko.xz: a.ko.xz\n"})
	if _, err := resolveModules(dir, []string{"a"}); err == nil || !strings.Contains(err.Error(), "a → b → a") {
		t.Errorf("got %v", err)
	}
}

func TestResolveCompressedWithoutDepmod(t *testing.T) {
	dir := writeTree(t, map[string]string{"a.ko.xz": ""})
	if _, err := resolveModules(dir, []string{"a"}); err == nil || !strings.Contains(err.Error(), "depmod") {
		t.Errorf("got %v", err)
	}
}

func TestResolveRealKernel(t *testing.T) {
	mods, err := resolveModules(kernelModules(t), DefaultModules())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range mods {
		for _, d := range m.Deps {
			if !seen[d] {
				t.Errorf("%s comes before its dependency %s", m.Name, d)
			}
		}
		seen[m.Name] = true
	}
	for _, want := range []string{"virtio_mmio", "virtio_blk", "net_failover", "virtio_net", "virtio_console"} {
		if !seen[want] {
			t.Errorf("%s is missing in %v", want, names(mods))
		}
	}
}

func TestSoftDependencies(t *testing.T) {
	if got := softBefore("pre: a-b c post: d"); !slices.Equal(got, []string{"a_b", "c"}) {
		t.Errorf("got %v", got)
	}
}

// TestBuild unpacks with cpio's own reader, if there is one, and looks at the tools there.
func TestBuild(t *testing.T) {
	if _, err := os.Stat(DefaultTools()[0]); err != nil {
		loud.Skip(t, "e2fsprogs is not installed: %v", err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("#!agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Agent: agent, ModulesDir: kernelModules(t)}
	var one, two bytes.Buffer
	if err := errors.Join(Build(&one, spec), Build(&two, spec)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two builds of the same files differ")
	}
	members := readArchive(t, one.Bytes())
	if string(members["banger/agent"]) != "#!agent" || string(members["init"]) != agentapi.InitramfsAgent {
		t.Errorf("agent %q, init %q", members["banger/agent"], members["init"])
	}
	var index []agentapi.BootModule
	if err := json.Unmarshal(members["banger/modules/index.json"], &index); err != nil {
		t.Fatal(err)
	}
	for _, m := range index {
		if len(members["banger/modules/"+m.File]) == 0 {
			t.Errorf("module %s is not in the archive", m.File)
		}
	}
	root := t.TempDir()
	for name, data := range members {
		if rest, ok := strings.CutPrefix(name, "banger/tools/"); ok && len(data) > 0 {
			p := filepath.Join(root, rest)
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tool := range []string{"mke2fs", "e2fsck"} {
		cmd := exec.Command(filepath.Join(root, "ld.so"), "--inhibit-cache", "--library-path", filepath.Join(root, "lib"), filepath.Join(root, tool), "-V")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), tool) {
			t.Errorf("%s from the archive: %v: %s", tool, err, out)
		}
	}
}

func TestMissingTool(t *testing.T) {
	err := Build(io.Discard, Spec{Agent: os.Args[0], Tools: []string{"/nonexistent/mke2fs"}})
	if api.CodeOf(err) != api.CodeMissing || api.AsError(err).Hint == "" {
		t.Errorf("got %v", err)
	}
}

// readArchive is a reader of its own for newc: name → body.
func readArchive(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	hex := func(s []byte) int {
		n := 0
		for _, c := range s {
			n = n<<4 | strings.IndexByte("0123456789abcdef", c)
		}
		return n
	}
	out := map[string][]byte{}
	for off := 0; ; {
		h := b[off:]
		if string(h[:6]) != "070701" {
			t.Fatalf("bad magic at %d", off)
		}
		size, nameLen := hex(h[54:62]), hex(h[94:102])
		name := string(h[110 : 110+nameLen-1])
		if name == "TRAILER!!!" {
			return out
		}
		body := (off + 110 + nameLen + 3) &^ 3
		out[name] = b[body : body+size]
		off = (body + size + 3) &^ 3
	}
}
