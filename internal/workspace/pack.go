package workspace

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// depth is how many commits of each line of history are brought.
const depth = 10

// history is what is brought of it.
type history struct {
	// tips are the commits wanted; shallow those that have parents which are not brought.
	tips, shallow []string
	// refs are further refs that the guest gets, each "OID NAME".
	refs []string
	// known are commits that the guest has, with all that they need up to its own shallow ones.
	known []string
}

// shortHistory ends after so many commits.
func (s *snapshot) shortHistory(ctx context.Context) (history, error) {
	h := history{}
	if s.head == "" {
		return h, nil
	}
	h.tips = []string{s.head}
	cut, err := s.repo.shallow()
	if err != nil {
		return h, err
	}
	at, level := map[string]bool{s.head: true}, []string{s.head}
	for n := 1; len(level) > 0; n++ {
		parents, err := s.repo.parents(ctx, level)
		if err != nil {
			return h, err
		}
		var next []string
		for i, commit := range level {
			if len(parents[i]) == 0 {
				continue
			}
			if n == depth || cut[commit] {
				h.shallow = append(h.shallow, commit)
				continue
			}
			for _, p := range parents[i] {
				if !at[p] {
					at[p] = true
					next = append(next, p)
				}
			}
		}
		level = next
	}
	return h, nil
}

// wholeHistory is that of all branches and tags.
func (s *snapshot) wholeHistory(ctx context.Context) (history, error) {
	h := history{}
	cut, err := s.repo.shallow()
	if err != nil {
		return h, err
	}
	for commit := range cut {
		h.shallow = append(h.shallow, commit)
	}
	out, err := s.repo.git(ctx, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags")
	if err != nil {
		return h, err
	}
	for _, l := range strings.Split(line(out), "\n") {
		oid, name, ok := strings.Cut(l, " ")
		if !ok {
			continue
		}
		h.tips = append(h.tips, oid)
		if name != "refs/heads/"+s.branch {
			h.refs = append(h.refs, l)
		}
	}
	if s.head != "" {
		h.tips = append(h.tips, s.head)
	}
	return h, nil
}

// shallow are the commits that this repository has without their parents.
func (r *Repo) shallow() (map[string]bool, error) {
	text, err := os.ReadFile(filepath.Join(r.common, "shallow"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("cannot read the repository: %w", err)
	}
	cut := map[string]bool{}
	for _, oid := range strings.Fields(string(text)) {
		cut[oid] = true
	}
	return cut, nil
}

// parents reads the parents of each commit.
func (r *Repo) parents(ctx context.Context, commits []string) ([][]string, error) {
	c := r.call(nil, "cat-file", "--batch")
	c.stdin = strings.NewReader(strings.Join(commits, "\n") + "\n")
	out, err := c.run(ctx)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(bytes.NewReader(out))
	list := make([][]string, len(commits))
	for n := range commits {
		var oid, kind string
		var size int64
		head, err := in.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("cannot read the history: %w", err)
		}
		if _, err := fmt.Sscan(head, &oid, &kind, &size); err != nil || kind != "commit" {
			return nil, fmt.Errorf("cannot read the history: git says %q", head)
		}
		body, err := io.ReadAll(io.LimitReader(in, size+1))
		if err != nil {
			return nil, fmt.Errorf("cannot read the history: %w", err)
		}
		for _, l := range strings.Split(string(body), "\n") {
			if l == "" {
				break
			}
			if p, ok := strings.CutPrefix(l, "parent "); ok {
				list[n] = append(list[n], p)
			}
		}
	}
	return list, nil
}

// pack makes one pack of the history and of what is staged and on the disk, with its index: the guest need not look into it. Returned is the
// path without an ending, empty where there is nothing to pack.
func (s *snapshot) pack(ctx context.Context, h history) (string, error) {
	var in strings.Builder
	for _, oid := range h.shallow {
		fmt.Fprintf(&in, "--shallow %s\n", oid)
	}
	for _, oid := range append(append([]string{}, h.tips...), s.tree, s.staged) {
		fmt.Fprintln(&in, oid)
	}
	for _, oid := range h.known {
		fmt.Fprintf(&in, "^%s\n", oid)
	}
	c := s.repo.call(s.env("none.index"), "pack-objects", "-q", "--revs", "--delta-base-offset", filepath.Join(s.dir, "pack"))
	c.stdin = strings.NewReader(in.String())
	out, err := c.run(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot pack the history: %w", err)
	}
	if line(out) == "" {
		return "", nil
	}
	return filepath.Join(s.dir, "pack-"+line(out)), nil
}
