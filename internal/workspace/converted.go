package workspace

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // git's name for a blob
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// converted are the files that are not on the disk as git keeps them: by line ends, or a filter like that of git-lfs. Git in the
// guest, which has no such filter, would write them otherwise than they are here.
func (s *snapshot) converted(ctx context.Context) ([]entry, error) {
	if !s.mayConvert(ctx) {
		return nil, nil
	}
	root, err := os.Open(s.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	w := &shipper{ctx: ctx, root: root}
	defer w.forget()
	var list []entry
	for _, e := range s.files {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if e.skip || e.mode == modeLink || e.mode == modeSubmodule {
			continue
		}
		oid, err := s.blob(w, e.path)
		if errors.Is(err, errNotThere) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if oid != e.oid {
			list = append(list, e)
		}
	}
	return list, nil
}

// mayConvert reports whether anything here converts at all: then every file has to be read.
func (s *snapshot) mayConvert(ctx context.Context) bool {
	for _, e := range s.files {
		if filepath.Base(e.path) == ".gitattributes" {
			return true
		}
	}
	if _, err := readSmall(filepath.Join(s.repo.common, "info", "attributes")); err == nil {
		return true
	}
	crlf := s.repo.setting(ctx, "core.autocrlf")
	return crlf != "" && crlf != "false" || s.repo.setting(ctx, "core.attributesFile") != ""
}

// blob is the name that git would give to a file as it is on the disk.
func (s *snapshot) blob(w *shipper, name string) (string, error) {
	dir, base, err := w.open(name)
	if err != nil {
		return "", err
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", errNotThere
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return "", errNotThere
	}
	var h hash.Hash = sha1.New() //nolint:gosec // git's name for a blob
	if s.format == "sha256" {
		h = sha256.New()
	}
	fmt.Fprintf(h, "blob %d\x00", st.Size())
	if _, err := io.Copy(h, io.LimitReader(f, st.Size())); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sendConverted puts those converted files that the guest does not have yet beside its repository, for the update to put them
// in their places.
func (s *snapshot) sendConverted(ctx context.Context, g Guest, o Options, was probed) error {
	list, err := s.converted(ctx)
	if err != nil || len(list) == 0 {
		return err
	}
	// Where the guest cannot tell (what is there now is kept first, and has no name yet), all of them go.
	var out bytes.Buffer
	if code, err := script(ctx, g, o.User, scriptChanged, nil, &out, was.path, was.work, s.tree); err != nil {
		return err
	} else if code == 0 {
		changed := fields(out.Bytes())
		list = slices.DeleteFunc(list, func(e entry) bool { return !slices.Contains(changed, e.path) })
	}
	if len(list) == 0 {
		return nil
	}
	drivers, err := s.drivers(ctx, list)
	if err != nil {
		return err
	}
	root, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer root.Close()
	return stream(func(out io.Writer) error {
		w := &shipper{ctx: ctx, tw: tar.NewWriter(out), prefix: "banger/incoming", made: map[string]bool{}, root: root, now: s.taken}
		defer w.forget()
		if err := w.bytes("drivers", lines(drivers), s.taken); err != nil {
			return err
		}
		var entries strings.Builder
		for _, e := range list {
			fmt.Fprintf(&entries, "%s %s 0\t%s\x00", e.mode, e.oid, e.path)
		}
		if err := w.bytes("entries", entries.String(), s.taken); err != nil {
			return err
		}
		w.prefix += "/files"
		for _, e := range list {
			if _, err := w.file(e.path); err != nil && !errors.Is(err, errNotThere) {
				return err
			}
		}
		return w.tw.Close()
	}, func(in io.Reader) error { return g.Put(ctx, was.path+"/.git", o.User, in) })
}

// drivers are the filters that the files are said to go through.
func (s *snapshot) drivers(ctx context.Context, list []entry) ([]string, error) {
	var in strings.Builder
	for _, e := range list {
		in.WriteString(e.path + "\x00")
	}
	c := s.repo.call(s.env("disk.index"), "check-attr", "-z", "--stdin", "filter")
	c.stdin = strings.NewReader(in.String())
	out, err := c.run(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for i, words := 2, fields(out); i < len(words); i += 3 {
		switch name := words[i]; {
		case name == "unspecified", name == "unset", name == "set", strings.ContainsAny(name, " \t\n\"'\\$`"), slices.Contains(names, name):
		default:
			names = append(names, name)
		}
	}
	return names, nil
}
