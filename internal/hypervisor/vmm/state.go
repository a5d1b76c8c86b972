package vmm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"banger/api"
)

// A file of device state: magic, length of what follows, CRC32C of it; then lines of JSON (the hypervisor's head), a zero byte,
// and the VMM's own stream.
const (
	stateMagic  = "bngrDV01"
	stateHeader = 8 + 8 + 4
	// maxState bounds what is read: a VMM's stream for a machine of ours has under 100 KB.
	maxState = 64 << 20
)

// EncodeState makes such a file.
func EncodeState(head any, stream []byte) ([]byte, error) {
	text, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	body := append(append(text, 0), stream...)
	b := append(make([]byte, 0, stateHeader+len(body)), stateMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return append(b, body...), nil
}

// ReadState reads and checks one; what is wrong with it has code conflict.
func ReadState(path string, head any) (stream []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, CannotContinue(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil, err
	}
	if stream, err = ParseState(b, head); err != nil {
		return nil, CannotContinue(fmt.Errorf("the device state %s is damaged: %w", path, err))
	}
	return stream, nil
}

// ParseState checks a file's content.
func ParseState(b []byte, head any) (stream []byte, err error) {
	if len(b) < stateHeader || string(b[:8]) != stateMagic {
		return nil, errors.New("it does not begin as one")
	}
	body := b[stateHeader:]
	if binary.LittleEndian.Uint64(b[8:]) != uint64(len(body)) {
		return nil, errors.New("its length is wrong")
	}
	if binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) {
		return nil, errors.New("its content does not check")
	}
	text, stream, ok := bytes.Cut(body, []byte{0})
	if err := json.Unmarshal(text, head); !ok || err != nil {
		return nil, errors.Join(errors.New("its head makes no sense"), err)
	}
	return stream, nil
}

// CannotContinue is the error for a state that this VMM, machine or host cannot go on from.
func CannotContinue(err error) error { return api.Errorf(api.CodeConflict, "%w", err) }
