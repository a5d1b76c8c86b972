package bzimage

import (
	"os"
	"path/filepath"

	"banger/internal/durable"
)

// File is the path of the ELF file that a kernel was packed from: it lies beside the kernel, and is made when it is first wanted. A
// file that is no packed kernel gives ErrUnknown.
func File(packed string) (string, error) {
	path := filepath.Join(filepath.Dir(packed), "vmlinux")
	was, err := os.Stat(packed)
	if err != nil {
		return "", err
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() && !fi.ModTime().Before(was.ModTime()) {
		return path, nil
	}
	image, err := os.ReadFile(packed)
	if err != nil {
		return "", err
	}
	elf, err := Unpack(image)
	if err != nil {
		return "", err
	}
	return path, durable.WriteFile(path, elf, was.Mode().Perm())
}
