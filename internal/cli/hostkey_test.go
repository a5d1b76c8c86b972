package cli

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger/api"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// TestKeyWatch puts the watch between a real ssh client and a real ssh server, with each
// kind of key exchange.
func TestKeyWatch(t *testing.T) {
	for _, kex := range []string{"mlkem768x25519-sha256", "curve25519-sha256", "ecdh-sha2-nistp256", "diffie-hellman-group14-sha256"} {
		for _, chunk := range []int{1, 4096} {
			t.Run(kex, func(t *testing.T) {
				signer, other := newSigner(t), newSigner(t)
				if err := handshake(t, kex, chunk, signer, signer.PublicKey()); err != nil {
					t.Errorf("the right key: %v", err)
				}
				err := handshake(t, kex, chunk, signer, other.PublicKey())
				if err == nil || !strings.Contains(err.Error(), "possible MITM") {
					t.Errorf("another key: %v", err)
				}
			})
		}
	}
}

// handshake runs an ssh handshake through a keyWatch, and returns the watch's verdict.
func handshake(t *testing.T, kex string, chunk int, signer ssh.Signer, pinned ssh.PublicKey) error {
	t.Helper()
	serverEnd, ours := net.Pipe()
	theirs, clientEnd := net.Pipe()
	defer clientEnd.Close()
	go func() {
		defer serverEnd.Close()
		config := &ssh.ServerConfig{NoClientAuth: true, Config: ssh.Config{KeyExchanges: []string{kex}}}
		config.AddHostKey(signer)
		if conn, _, _, err := ssh.NewServerConn(serverEnd, config); err == nil {
			_ = conn.Wait() // until the client goes
		}
	}()
	verdict := make(chan error, 1)
	go func() {
		defer theirs.Close()
		defer ours.Close()
		go io.Copy(ours, theirs) //nolint:errcheck // ends with the test
		watch := keyWatch{check: func(key ssh.PublicKey) error {
			err := checkPinned([]ssh.PublicKey{pinned}, key, "x.vm", "x", "known_hosts")
			if err == nil {
				verdict <- nil
			}
			return err
		}}
		buf := make([]byte, chunk)
		for {
			n, err := ours.Read(buf)
			if n > 0 {
				if err := watch.see(buf[:n]); err != nil {
					verdict <- err
					return
				}
				if _, err := theirs.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				verdict <- err
				return
			}
		}
	}()
	conn, _, _, err := ssh.NewClientConn(clientEnd, "x.vm:22", &ssh.ClientConfig{
		User: "root", HostKeyCallback: ssh.InsecureIgnoreHostKey(), Config: ssh.Config{KeyExchanges: []string{kex}},
	})
	if err == nil {
		conn.Close()
	}
	return <-verdict
}

func FuzzKeyWatch(f *testing.F) {
	f.Add([]byte("SSH-2.0-x\r\n\x00\x00\x00\x0c\x04\x1f\x00\x00\x00\x01k...."), 3)
	f.Add([]byte("hello\nSSH-2.0-x\n\xff\xff\xff\xff"), 1)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		chunk = max(1, min(chunk, 4096))
		watch := keyWatch{check: func(ssh.PublicKey) error { return nil }}
		for len(data) > 0 {
			n := min(chunk, len(data))
			if err := watch.see(data[:n]); err != nil {
				t.Fatal(err)
			}
			data = data[n:]
			if len(watch.buf) > maxKeyExchange {
				t.Fatalf("keeps %d bytes", len(watch.buf))
			}
		}
	})
}

func TestPinnedKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known_hosts")
	key := newSigner(t).PublicKey()
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	text := "# comment\n\ngarbage line\nother.vm " + line + "\nx.vm,172.30.0.5 " + line + "\n"
	if _, err := pinnedKeys(file, "x.vm", "x"); api.CodeOf(err) != api.CodeHostIdentity {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := pinnedKeys(file, "x.vm", "x")
	if err != nil || len(keys) != 1 || !bytes.Equal(keys[0].Marshal(), key.Marshal()) {
		t.Errorf("got %v, %v", keys, err)
	}
	if _, err := pinnedKeys(file, "y.vm", "y"); api.CodeOf(err) != api.CodeHostIdentity {
		t.Errorf("a name that is not there: %v", err)
	}
	vm := api.VM{Name: "x", Runtime: api.VMRuntime{DNSName: "x.vm", SSHHostKey: line}}
	if err := checkRecorded(keys, vm, file); err != nil {
		t.Error(err)
	}
	vm.Runtime.SSHHostKey = string(ssh.MarshalAuthorizedKey(newSigner(t).PublicKey()))
	if err := checkRecorded(keys, vm, file); api.CodeOf(err) != api.CodeHostIdentity || !strings.Contains(err.Error(), "possible MITM") {
		t.Errorf("another key: %v", err)
	}
}
