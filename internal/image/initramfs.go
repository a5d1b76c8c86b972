package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/image/initramfs"
)

// Initramfs is the initramfs for a kernel with the present agent: made once for each set of files
// that go into it, then found by its key.
func (s *Service) Initramfs(ctx context.Context, kernelDigest string) (string, error) {
	kernel, err := s.KernelFiles(kernelDigest)
	if err != nil {
		return "", err
	}
	key, err := s.initramfsKey(ctx, kernelDigest)
	if err != nil {
		return "", err
	}
	path := s.Paths.InitramfsFile(key)
	if fileSize(path) > 0 {
		return path, nil
	}
	unlock, err := s.locks.Lock(ctx, "initramfs "+key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if fileSize(path) > 0 {
		return path, nil
	}
	work, remove, err := s.tempDir("initramfs")
	if err != nil {
		return "", err
	}
	defer remove()
	object := filepath.Join(work, "object")
	if err := os.Mkdir(object, 0o700); err != nil {
		return "", diskError(err)
	}
	f, err := os.OpenFile(filepath.Join(object, filepath.Base(path)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", diskError(err)
	}
	modules := filepath.Join(s.Paths.Kernel(kernelDigest).Boot(), kernel.Version)
	err = initramfs.Build(f, initramfs.Spec{Agent: s.AgentPath, ModulesDir: modules})
	if err := errors.Join(err, f.Close()); err != nil {
		return "", diskError(fmt.Errorf("cannot make initramfs: %w", err))
	}
	record := initramfsRecord{Kernel: kernelDigest, Key: key}
	return path, seal(object, filepath.Dir(path), "record.json", record)
}

type initramfsRecord struct {
	Kernel string `json:"kernel"`
	Key    string `json:"key"`
}

// initramfsKey is a digest of what goes in: the kernel, the agent, the host's tools.
func (s *Service) initramfsKey(ctx context.Context, kernel string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, kernel, initramfs.DefaultModules())
	for _, path := range append([]string{s.AgentPath}, initramfs.DefaultTools()...) {
		d, err := s.agents.of(ctx, path)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, filepath.Base(path), d)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// agentDigest remembers the digests of programs, so that a start need not read them. A
// file that is replaced has another inode, size or time.
type agentDigest struct {
	mu    sync.Mutex // protects known
	known map[string]fileDigest
}

type fileDigest struct {
	info   os.FileInfo
	digest string
}

func (a *agentDigest) of(ctx context.Context, path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", api.Errorf(api.CodeMissing, "cannot make initramfs: there is no %s", path).WithHint("banger doctor")
	}
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	k, ok := a.known[path]
	a.mu.Unlock()
	if ok && os.SameFile(k.info, info) && k.info.Size() == info.Size() && k.info.ModTime().Equal(info.ModTime()) {
		return k.digest, nil
	}
	d, err := digestFile(ctx, path, nil)
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[string]fileDigest{}
	}
	a.known[path] = fileDigest{info, d}
	return d, nil
}

// keepInitramfs is how long an initramfs stays that no present kernel and agent would use: a VM that was
// started from it has read it long before.
const keepInitramfs = time.Hour

func (s *Service) pruneInitramfs(ctx context.Context, p *Pruned) error {
	entries, err := os.ReadDir(s.Paths.Initramfs())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		dir := filepath.Join(s.Paths.Initramfs(), e.Name())
		record, ok := readRecord[initramfsRecord](filepath.Join(dir, "record.json"))
		if ok {
			if key, err := s.initramfsKey(ctx, record.Kernel); err != nil || key == record.Key && fileSize(s.Paths.Kernel(record.Kernel).Vmlinuz()) > 0 {
				continue
			}
		}
		info, err := e.Info()
		if err != nil || s.Now().Sub(info.ModTime()) < keepInitramfs {
			continue
		}
		size, err := disk.Used(dir)
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err == nil {
			p.Initramfs++
			p.FreedBytes += size
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
