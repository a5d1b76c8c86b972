package workspace

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's checksum
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"sort"
	"strconv"
	"strings"
)

// stat is what an index remembers of a file that has its blob's contents; zero: git must look.
type stat struct {
	mtime int64 // seconds
	size  int64
}

// Flags of an index entry; see gitformat-index(5).
const (
	flagExtended     = 0x4000
	flagName         = 0x0fff
	flagSkipWorktree = 0x4000 // in the extended word
)

// writeIndex makes an index file, so that git in the guest finds the files as they are and reads none of them. Of each
// file it has the size and the seconds of mtime, which is what core.checkStat=minimal compares. trees may be empty.
func writeIndex(list []entry, stats map[string]stat, trees []byte) ([]byte, error) {
	list = append([]entry(nil), list...)
	sort.Slice(list, func(i, j int) bool { return list[i].path < list[j].path })
	version := uint32(2)
	oidBytes := sha1.Size
	for _, e := range list {
		if e.skip {
			version = 3
		}
		oidBytes = len(e.oid) / 2
	}
	var b bytes.Buffer
	word := func(n uint32) { _ = binary.Write(&b, binary.BigEndian, n) } // to memory: never fails
	b.WriteString("DIRC")
	word(version)
	word(uint32(len(list))) //nolint:gosec // a repository has fewer files
	for _, e := range list {
		begin := b.Len()
		mode, err := strconv.ParseUint(e.mode, 8, 32)
		oid, err2 := hex.DecodeString(e.oid)
		if err != nil || err2 != nil || len(oid) != oidBytes {
			return nil, fmt.Errorf("cannot write an index: entry %s %s", e.mode, e.oid)
		}
		st := stats[e.path]
		word(0) // ctime
		word(0)
		word(uint32(st.mtime)) //nolint:gosec // as git does
		word(0)                // its nanoseconds
		word(0)                // dev
		word(0)                // ino
		word(uint32(mode))
		word(0)               // uid
		word(0)               // gid
		word(uint32(st.size)) //nolint:gosec // as git does
		b.Write(oid)
		flags := uint16(min(len(e.path), flagName)) //nolint:gosec // at most 0xfff
		if e.skip {
			flags |= flagExtended
		}
		_ = binary.Write(&b, binary.BigEndian, flags)
		if e.skip {
			_ = binary.Write(&b, binary.BigEndian, uint16(flagSkipWorktree))
		}
		b.WriteString(e.path)
		b.Write(make([]byte, 8-(b.Len()-begin)%8)) // 1 to 8 NULs
	}
	if len(trees) > 0 {
		b.WriteString("TREE")
		word(uint32(len(trees))) //nolint:gosec // a few MB at most
		b.Write(trees)
	}
	var sum hash.Hash = sha1.New() //nolint:gosec // git's checksum
	if oidBytes == sha256.Size {
		sum = sha256.New()
	}
	sum.Write(b.Bytes())
	return sum.Sum(b.Bytes()), nil
}

// node is a directory of a tree.
type node struct {
	name, oid string
	files     int
	below     []*node
}

// indexTrees makes the part of an index that remembers which directories are which trees, so that git in the guest need not
// make those again. listed is what `ls-tree -r -t -z` says of the tree that the index is.
func indexTrees(root string, listed []string) ([]byte, error) {
	top := &node{oid: root}
	at := map[string]*node{"": top}
	for _, l := range listed {
		head, path, ok := strings.Cut(l, "\t")
		words := strings.Fields(head)
		if !ok || len(words) != 3 {
			return nil, fmt.Errorf("cannot read a tree from %q", l)
		}
		dir, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir, name = path[:i], path[i+1:]
		}
		parent := at[dir]
		if parent == nil {
			return nil, fmt.Errorf("cannot read a tree: %q comes before its directory", path)
		}
		if words[1] == "tree" {
			n := &node{name: name, oid: words[2]}
			parent.below = append(parent.below, n)
			at[path] = n
			continue
		}
		parent.files++
	}
	var b bytes.Buffer
	top.total()
	err := top.write(&b)
	return b.Bytes(), err
}

// total adds the files below to each directory's own.
func (n *node) total() int {
	for _, sub := range n.below {
		n.files += sub.total()
	}
	return n.files
}

func (n *node) write(b *bytes.Buffer) error {
	oid, err := hex.DecodeString(n.oid)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "%s\x00%d %d\n", n.name, n.files, len(n.below))
	b.Write(oid)
	for _, sub := range n.below {
		if err := sub.write(b); err != nil {
			return err
		}
	}
	return nil
}
