package config

import "path/filepath"

// ImagePaths are the files of one sealed root disk; all read-only (0444), in a directory
// named by the digest (0711: a VMM under a uid of its own may open what it is told the name of).
type ImagePaths struct{ Dir string }

func (p Paths) Image(digest string) ImagePaths {
	return ImagePaths{filepath.Join(p.Images(), digest)}
}

// Root is the raw ext4 disk. Record is its api.Image, for a daemon that finds the files without a row.
func (i ImagePaths) Root() string   { return filepath.Join(i.Dir, "root.ext4") }
func (i ImagePaths) Record() string { return filepath.Join(i.Dir, "record.json") }

// KernelPaths are the files of one sealed kernel, kept as an image's are.
type KernelPaths struct{ Dir string }

func (p Paths) Kernel(digest string) KernelPaths {
	return KernelPaths{filepath.Join(p.Kernels(), digest)}
}

// Vmlinuz is the kernel, Modules the ext4 disk whose root directory holds VERSION/.
func (k KernelPaths) Vmlinuz() string { return filepath.Join(k.Dir, "vmlinuz") }
func (k KernelPaths) Modules() string { return filepath.Join(k.Dir, "modules.ext4") }

// Boot holds VERSION/ with the few modules that the initramfs needs, uncompressed, and their modules.dep.
func (k KernelPaths) Boot() string   { return filepath.Join(k.Dir, "boot") }
func (k KernelPaths) Record() string { return filepath.Join(k.Dir, "record.json") }

// InitramfsFile is the initramfs made for a key; the key is a digest of all that goes into it.
func (p Paths) InitramfsFile(key string) string {
	return filepath.Join(p.Initramfs(), key, "initramfs.img")
}
