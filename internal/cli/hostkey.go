package cli

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/api"
)

// pinnedKeys are the host keys that known_hosts has for a name. A missing file, or one
// without the name, fails closed: a VM's key is pinned before anybody can connect.
func pinnedKeys(file, host, vm string) ([]ssh.PublicKey, error) {
	notPinned := func(why string) error {
		return api.Errorf(api.CodeHostIdentity, "%s, so %s cannot be told from an impostor", why, host).
			WithHint("banger restart %s pins its key again", vm)
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notPinned(file + " is missing")
	}
	if err != nil {
		return nil, api.Errorf(api.CodeHostIdentity, "cannot read the pinned host keys: %w", err)
	}
	var keys []ssh.PublicKey
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		_, hosts, key, _, _, err := ssh.ParseKnownHosts(append(bytes.Clone(lines.Bytes()), '\n'))
		if err != nil {
			continue // empty, a comment, or damaged: pins nothing
		}
		for _, h := range hosts {
			if strings.EqualFold(h, host) {
				keys = append(keys, key)
			}
		}
	}
	if len(keys) == 0 {
		return nil, notPinned("no host key of " + host + " is pinned in " + file)
	}
	return keys, nil
}

// checkPinned compares the key that a VM is known to have with the pinned ones.
func checkPinned(pinned []ssh.PublicKey, key ssh.PublicKey, host, vm, file string) error {
	for _, p := range pinned {
		if bytes.Equal(p.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return api.Errorf(api.CodeHostIdentity, "the host key of %s is %s, not the one pinned in %s: possible MITM, connection refused",
		host, ssh.FingerprintSHA256(key), file).
		WithHint("if you changed the key inside the guest yourself: banger restart %s puts the pinned one back", vm)
}

// checkRecorded compares the pinned keys with the one that the daemon made for the VM.
func checkRecorded(pinned []ssh.PublicKey, vm api.VM, file string) error {
	if vm.Runtime.SSHHostKey == "" {
		return api.Errorf(api.CodeHostIdentity, "%s has no host key yet", vm.Name).WithHint("banger start %s", vm.Name)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(vm.Runtime.SSHHostKey))
	if err != nil {
		return api.Errorf(api.CodeInternal, "the recorded host key of %s makes no sense: %w", vm.Name, err)
	}
	return checkPinned(pinned, key, vm.Runtime.DNSName, vm.Name, file)
}
