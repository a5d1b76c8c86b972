package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
)

type fileValue struct {
	text, where string
	// tables are the value of a key that is written as [[KEY]]; nil for others.
	tables []map[string]any
}

// readFile reads config.toml; a missing one is empty. Tables become keys with dots.
func readFile(path string) (map[string]fileValue, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Message: fmt.Sprintf("cannot read the configuration: %v", err)}
	}
	var tree map[string]any
	if _, err := toml.Decode(string(data), &tree); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, &Error{Message: fmt.Sprintf("%s, line %d: %s", path, pe.Position.Line, pe.Message)}
		}
		return nil, &Error{Message: fmt.Sprintf("%s: %v", path, err)}
	}
	out := make(map[string]fileValue)
	return out, flatten(path, "", tree, out)
}

func flatten(path, prefix string, tree map[string]any, out map[string]fileValue) error {
	for name, v := range tree {
		key := prefix + name
		switch v := v.(type) {
		case map[string]any:
			if err := flatten(path, key+".", v, out); err != nil {
				return err
			}
			continue
		case string, int64, float64, bool:
			out[key] = fileValue{text: fmt.Sprint(v), where: path}
		default:
			if tables, ok := tablesOf(v); ok && takesTables(key) {
				out[key] = fileValue{tables: tables, where: path}
				continue
			}
			return &Error{Message: fmt.Sprintf("%s: %s is not a single value", path, key)}
		}
		if err := checkKey(path, key); err != nil {
			return err
		}
	}
	return nil
}

// checkKey refuses a key that is none, and names the one that was probably meant.
func checkKey(path, key string) error {
	best, bestDistance := "", 4
	for _, k := range Keys() {
		if k.Name == key {
			if k.notInFile {
				return &Error{Message: fmt.Sprintf("%s: %s cannot be set in the file that it points to", path, key), Hint: k.Env() + "=DIR"}
			}
			return nil
		}
		if d := distance(strings.ToLower(key), k.Name); d < bestDistance {
			best, bestDistance = k.Name, d
		}
	}
	hint := "banger config show"
	if best != "" {
		hint = fmt.Sprintf("did you mean %q?", best)
	}
	return &Error{Message: fmt.Sprintf("%s: unknown key %q", path, key), Hint: hint}
}

// distance is how many letters must be put in, left out or changed to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
