package dmsnapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"banger/api"
)

// A disk is one sparse file: two slots for our own header, of which the one with the higher generation and a right checksum
// holds, and from storeAt on what the kernel knows, through a loop device that begins there. The kernel never sees our
// header, and so cannot lose it: when a snapshot breaks it writes its own anew, with zeros behind.
const (
	slotBytes = 4096
	slots     = 2
	storeAt   = slots * slotBytes

	headerMagic   = "bangerDM"
	headerVersion = 1
)

// header is what a disk says of itself.
type header struct {
	Generation uint64
	// Size is what the guest sees, in bytes.
	Size int64
	// Reserved is the first chunk of the store that the kernel may give away: chunks below it that it has not given away itself were put
	// there by a Flatten.
	Reserved uint64
	// Scratch is the chunk from which on a Flatten that is not done has put chunks; 0 when there is none.
	Scratch uint64
	// Base is an absolute path, or empty; BaseFormat is "raw" or "dmsnapshot".
	Base, BaseFormat string
}

// Offsets in a slot. The checksum is CRC32C of all of the slot that follows it.
const (
	atMagic      = 0
	atSum        = 8
	atVersion    = 12
	atGeneration = 16
	atSize       = 24
	atReserved   = 32
	atScratch    = 40
	atFormatLen  = 48
	atBaseLen    = 50
	atStrings    = 52
)

func (h header) encode() ([]byte, error) {
	if atStrings+len(h.BaseFormat)+len(h.Base) > slotBytes {
		return nil, api.Errorf(api.CodeInvalid, "the base's path is longer than %d bytes", slotBytes-atStrings-len(h.BaseFormat))
	}
	le := binary.LittleEndian
	b := make([]byte, slotBytes)
	copy(b[atMagic:], headerMagic)
	le.PutUint32(b[atVersion:], headerVersion)
	le.PutUint64(b[atGeneration:], h.Generation)
	le.PutUint64(b[atSize:], uint64(h.Size))
	le.PutUint64(b[atReserved:], h.Reserved)
	le.PutUint64(b[atScratch:], h.Scratch)
	le.PutUint16(b[atFormatLen:], uint16(len(h.BaseFormat)))
	le.PutUint16(b[atBaseLen:], uint16(len(h.Base)))
	copy(b[atStrings:], h.BaseFormat+h.Base)
	le.PutUint32(b[atSum:], checksum(b))
	return b, nil
}

func checksum(slot []byte) uint32 {
	return crc32.Checksum(slot[atVersion:slotBytes], crc32.MakeTable(crc32.Castagnoli))
}

var errNoHeader = errors.New("it has no dmsnapshot header, or a damaged one")

func decodeHeader(slot []byte) (header, error) {
	le := binary.LittleEndian
	if len(slot) < slotBytes || !bytes.HasPrefix(slot, []byte(headerMagic)) ||
		le.Uint32(slot[atSum:]) != checksum(slot) || le.Uint32(slot[atVersion:]) != headerVersion {
		return header{}, errNoHeader
	}
	h := header{
		Generation: le.Uint64(slot[atGeneration:]), Size: int64(le.Uint64(slot[atSize:])),
		Reserved: le.Uint64(slot[atReserved:]), Scratch: le.Uint64(slot[atScratch:]),
	}
	f := atStrings + int(le.Uint16(slot[atFormatLen:]))
	end := f + int(le.Uint16(slot[atBaseLen:]))
	if end > slotBytes || h.Size <= 0 || h.Size > maxSize || h.Size%512 != 0 || h.Reserved < firstFree || h.Reserved > maxChunk || h.Scratch > maxChunk {
		return header{}, errNoHeader
	}
	h.BaseFormat, h.Base = string(slot[atStrings:f]), string(slot[f:end])
	if !validBase(h.Base, h.BaseFormat) {
		return header{}, errNoHeader
	}
	return h, nil
}

func validBase(base, format string) bool {
	return base == "" && format == "" || base != "" && (format == formatRaw || format == Format)
}

// readHeader gives the newer of the two that is whole.
func readHeader(f io.ReaderAt) (header, error) {
	var newest header
	found := false
	for n := range int64(slots) {
		slot := make([]byte, slotBytes)
		if _, err := f.ReadAt(slot, n*slotBytes); err != nil && !errors.Is(err, io.EOF) {
			return header{}, err
		}
		if h, err := decodeHeader(slot); err == nil && (!found || h.Generation > newest.Generation) {
			newest, found = h, true
		}
	}
	if !found {
		return header{}, errNoHeader
	}
	return newest, nil
}

// writeHeader makes h the one that holds, when it returns: on disk, and whole or not at all.
func writeHeader(f *os.File, h *header) error {
	h.Generation++
	slot, err := h.encode()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(slot, int64(h.Generation%slots)*slotBytes); err != nil {
		return fmt.Errorf("cannot write the header of disk %s: %w", f.Name(), err)
	}
	return f.Sync()
}
