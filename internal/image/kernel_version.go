package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"regexp"

	"banger/api"
)

// versionName is what a kernel's version may look like: it becomes a directory's name.
var versionName = regexp.MustCompile(`^[0-9][A-Za-z0-9._+~-]{0,127}$`)

// kernelVersion is the version in a bzImage's header (Linux, Documentation/arch/x86/boot.rst), and "" for
// an ELF kernel, which has none in a fixed place. The file's position is left at its beginning.
func kernelVersion(f io.ReaderAt) (string, error) {
	head := make([]byte, 0x210)
	if _, err := f.ReadAt(head, 0); errors.Is(err, io.EOF) {
		return "", api.Errorf(api.CodeInvalid, "not a kernel: too short")
	} else if err != nil {
		return "", err
	}
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return "", nil
	}
	if string(head[0x202:0x206]) != "HdrS" {
		return "", api.Errorf(api.CodeInvalid, "not a kernel: neither a bzImage nor an ELF file")
	}
	at := int64(binary.LittleEndian.Uint16(head[0x20e:])) + 0x200
	text := make([]byte, 256)
	n, err := f.ReadAt(text, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	version, _, _ := bytes.Cut(text[:n], []byte(" "))
	if !versionName.Match(version) {
		return "", nil
	}
	return string(version), nil
}
