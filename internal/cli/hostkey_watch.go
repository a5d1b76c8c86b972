package cli

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/crypto/ssh"
)

// keyWatch reads along with what an ssh server sends, up to the message in which it shows its
// host key. That part of the protocol is not encrypted (RFC 4253, sections 4.2, 6, 8):
// lines of text up to "SSH-", then packets of length, padding length, message number,
// payload. The key is the first string of SSH_MSG_KEXDH_REPLY (31, the same number in ECDH
// and its post-quantum kin, RFC 5656) or SSH_MSG_KEX_DH_GEX_REPLY (33, RFC 4419).
//
// OpenSSH checks the key itself, against the same file; this is for refusing it in our
// own words, and before a byte of the user's reaches the impostor.
type keyWatch struct {
	check func(ssh.PublicKey) error
	buf   []byte
	ident bool // the identification line is behind us
	done  bool
}

// maxKeyExchange is how much a server may send before its key; beyond it OpenSSH is left to judge.
const maxKeyExchange = 256 << 10

// see looks at the next bytes from the server; an error means that they must not be passed on.
func (w *keyWatch) see(data []byte) error {
	if w.done {
		return nil
	}
	w.buf = append(w.buf, data...)
	for !w.done {
		if !w.ident {
			i := bytes.IndexByte(w.buf, '\n')
			if i < 0 {
				break
			}
			w.ident = bytes.HasPrefix(w.buf, []byte("SSH-"))
			w.buf = w.buf[i+1:]
			continue
		}
		if len(w.buf) < 6 {
			break
		}
		size := binary.BigEndian.Uint32(w.buf)
		if size < 2 || size > maxKeyExchange {
			w.end()
			return nil
		}
		if uint32(len(w.buf)-4) < size { //nolint:gosec // bounded by maxKeyExchange below
			break
		}
		packet := w.buf[4 : 4+size]
		w.buf = w.buf[4+size:]
		if err := w.packet(packet[1], packet[2:]); err != nil {
			return err
		}
	}
	if len(w.buf) > maxKeyExchange {
		w.end()
	}
	return nil
}

func (w *keyWatch) packet(message byte, payload []byte) error {
	const newKeys, kexReply, gexReply = 21, 31, 33
	switch message {
	case newKeys:
		w.end()
	case kexReply, gexReply:
		key, ok := firstKey(payload)
		if !ok {
			return nil // 31 is also SSH_MSG_KEX_DH_GEX_GROUP, which has no key
		}
		w.end()
		return w.check(key)
	}
	return nil
}

func (w *keyWatch) end() { w.done, w.buf = true, nil }

func firstKey(payload []byte) (ssh.PublicKey, bool) {
	if len(payload) < 4 {
		return nil, false
	}
	n := binary.BigEndian.Uint32(payload)
	if uint64(n) > uint64(len(payload)-4) {
		return nil, false
	}
	key, err := ssh.ParsePublicKey(payload[4 : 4+n])
	return key, err == nil
}
