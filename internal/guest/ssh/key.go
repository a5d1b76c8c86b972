// Package ssh keeps what banger needs to let people into guests by OpenSSH: the key that is put
// into every guest, a guest's own host key, and a known_hosts file that is banger's alone.
// It imports durable and api; vm, daemon and cli's daemon side may import it.
package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/api"
	"banger/internal/durable"
)

// EnsureKey returns the public line ("ssh-ed25519 AAAA… banger") of the private key at path. The
// first call makes the key: ed25519, OpenSSH's format, 0600 in a 0700 directory, and
// path.pub beside it. Calls at the same time, by any process, agree on one key.
func EnsureKey(path string) (public string, err error) {
	dir := filepath.Dir(path)
	if err := private(dir); err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeKey(path); err == nil {
			data, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot make the ssh key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return "", api.Errorf(api.CodeConflict, "cannot use the ssh key %s: %w", path, err).
			WithHint("mv %s %s.broken", path, path)
	}
	if err := os.Chmod(path, 0o600); err != nil { // OpenSSH refuses a key that others can read
		return "", fmt.Errorf("cannot protect the ssh key: %w", err)
	}
	public = publicLine(signer.PublicKey()) + " banger"
	if old, err := os.ReadFile(path + ".pub"); err != nil || strings.TrimSpace(string(old)) != public {
		if err := durable.WriteFile(path+".pub", []byte(public+"\n"), 0o644); err != nil {
			return "", fmt.Errorf("cannot write the public ssh key: %w", err)
		}
	}
	return public, nil
}

// makeKey writes a new key to path unless there is one by then.
func makeKey(path string) error {
	key, _, err := newKey("banger")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // 0600 from birth
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// Link, unlike rename, does not replace the key that another call has just made.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// NewHostKey makes a guest's host key: the private key in OpenSSH's PEM form, and the
// public line without a comment, as in known_hosts.
func NewHostKey() (private []byte, public string, err error) {
	key, pub, err := newKey("")
	if err != nil {
		return nil, "", fmt.Errorf("cannot make an ssh host key: %w", err)
	}
	return key, publicLine(pub), nil
}

func newKey(comment string) ([]byte, ssh.PublicKey, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, nil, err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(block), sshPub, nil
}

func publicLine(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// private makes sure that dir exists and is nobody else's (0700).
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the ssh directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("cannot protect the ssh directory: %w", err)
	}
	return nil
}
