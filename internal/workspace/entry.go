package workspace

import (
	"fmt"
	"strings"

	"banger/api"
)

// entry is a line of an index or tree.
type entry struct {
	path string
	mode string // "100644", "100755", "120000", "160000"
	oid  string
	// skip is set where a sparse checkout leaves the file out.
	skip bool
	// stage is over 0 in a conflict.
	stage int
}

const (
	modeLink      = "120000"
	modeSubmodule = "160000"
)

// parseIndex reads `ls-files -s -t -z`.
func parseIndex(out []byte) ([]entry, error) {
	var list []entry
	for _, f := range fields(out) {
		head, path, ok := strings.Cut(f, "\t")
		words := strings.Fields(head)
		if !ok || len(words) != 4 || len(words[3]) != 1 {
			return nil, fmt.Errorf("cannot read git's index from %q", f)
		}
		e := entry{path: path, mode: words[1], oid: words[2], stage: int(words[3][0] - '0'), skip: words[0] == "S"}
		if err := checkPath(path); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// checkPath refuses what git itself never has in an index: whoever made the repository wants to write elsewhere.
func checkPath(path string) error {
	for _, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." || strings.EqualFold(part, ".git") {
			return api.Errorf(api.CodeInvalid, "the repository has a file named %q, which is not brought into a guest", path)
		}
	}
	return nil
}
