package server

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/loud"
)

// nobody is a uid that owns nothing.
const nobody = 65534

// TestMain plays the foreign caller when TestPeers runs this program under another uid.
func TestMain(m *testing.M) {
	if socket := os.Getenv("BANGER_TEST_CALL"); socket != "" {
		resp, err := httpClient(socket).Get("http://x/x")
		if err != nil {
			println(err.Error())
			os.Exit(3)
		}
		if err := resp.Write(os.Stdout); err != nil {
			os.Exit(4)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	loud.Skip(t, "calling the daemon as another user needs root")
}

// TestPeers opens the socket to everybody and lets the kernel say who is there.
func TestPeers(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		daemon int
		caller uint32
		want   string
	}{
		{0, nobody, string(api.CodeDenied)},
		{0, 0, "200 OK"},
		{nobody, nobody, "200 OK"},
		{nobody, 0, "200 OK"},
		{nobody, nobody - 1, string(api.CodeDenied)},
	} {
		_, socket := serveAs(t, c.daemon, route{"GET /x", owner, "", nil, answer(http.StatusOK, func(*call) ([]int, error) { return nil, nil })})
		for path, mode := range map[string]os.FileMode{filepath.Dir(socket): 0o755, socket: 0o666} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		// By a descriptor: the directories of go test are closed to other users.
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), "BANGER_TEST_CALL="+socket)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.caller, Gid: c.caller}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("daemon of uid %d, caller of uid %d: %v, %s; want %s", c.daemon, c.caller, err, out, c.want)
		}
	}
}
