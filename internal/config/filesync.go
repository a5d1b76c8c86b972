package config

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// FileSync is one [[file_sync]]: a file or directory of this host that is put onto the work disk of each VM at its starts.
//
//	[[file_sync]]
//	host = "~/.netrc"       # below the home of the daemon's user; no symbolic link on the way
//	guest = "~/.netrc"      # below /root, or /home/USER; left out: as on the host
//	mode = "0600"           # of files; left out: 0600, or 0700 for what its owner may execute
type FileSync struct {
	// Host is relative to the home, and clean.
	Host string
	// Guest is absolute and clean, below /root or /home/USER.
	Guest string
	// Mode is that of files; directories may be searched by whoever may read. 0 means that none was given.
	Mode fs.FileMode
}

// fileSync is the key [[file_sync]].
func fileSync(name, help string) Key {
	return Key{Name: name, Help: help,
		set: func(*Config, string) error {
			return fmt.Errorf("it is given in config.toml alone, as [[%s]] with host, guest and mode", name)
		},
		setTables: func(c *Config, tables []map[string]any) error {
			list := make([]FileSync, 0, len(tables))
			for n, t := range tables {
				f, err := c.fileSync(t)
				if err != nil {
					return fmt.Errorf("entry %d (%s): %w", n+1, entry(t), err)
				}
				list = append(list, f)
			}
			c.FileSync = list
			return nil
		},
		get: func(c *Config) string {
			words := []string{}
			for _, f := range c.FileSync {
				words = append(words, "~/"+f.Host+":"+f.Guest)
			}
			return or(strings.Join(words, " "), "none")
		},
	}
}

// entry names an entry in a refusal.
func entry(t map[string]any) string {
	for _, key := range []string{"host", "guest"} {
		if s, ok := t[key].(string); ok {
			return fmt.Sprintf("%s = %q", key, s)
		}
	}
	return "it has no host"
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// fileSync reads one entry.
func (c *Config) fileSync(t map[string]any) (f FileSync, err error) {
	for key, v := range t {
		if !slices.Contains([]string{"host", "guest", "mode"}, key) {
			return f, fmt.Errorf("it has %q; there are host, guest and mode", key)
		}
		if _, ok := v.(string); !ok && key != "mode" {
			return f, fmt.Errorf("%s is no text", key)
		}
	}
	host, _ := t["host"].(string)
	if f.Host, err = c.belowHome(host); err != nil {
		return f, err
	}
	guest, given := t["guest"].(string)
	if !given {
		guest = "~/" + f.Host
	}
	if f.Guest, err = belowGuestHome(guest); err != nil {
		return f, err
	}
	if m, given := t["mode"]; given {
		f.Mode, err = fileMode(m)
	}
	return f, err
}

// belowHome turns a path of the host into one that is relative to the home.
func (c *Config) belowHome(p string) (string, error) {
	if err := plain("host", p); err != nil {
		return "", err
	}
	if c.Home == "/" {
		return "", fmt.Errorf("the user of this daemon has no home directory")
	}
	rel, ok := strings.CutPrefix(p, "~/")
	if !ok && filepath.IsAbs(p) {
		rel, ok = strings.CutPrefix(filepath.Clean(p), c.Home+"/")
	}
	if !ok || filepath.Clean(rel) == "." || strings.HasPrefix(rel, "/") {
		return "", fmt.Errorf("host is not below the home directory %s", c.Home)
	}
	return filepath.Clean(rel), nil
}

// belowGuestHome makes a path of the guest absolute; "~" is root's home, as everywhere.
func belowGuestHome(p string) (string, error) {
	if err := plain("guest", p); err != nil {
		return "", err
	}
	if rel, ok := strings.CutPrefix(p, "~/"); ok {
		p = "/root/" + rel
	}
	p = path.Clean(p)
	words := strings.Split(p, "/")
	if len(words) < 3 || words[0] != "" || words[1] != "root" && (words[1] != "home" || len(words) < 4) {
		return "", fmt.Errorf("guest is not below the home directory /root or /home/USER")
	}
	if strings.HasSuffix(p, "/.ssh/authorized_keys") {
		return "", fmt.Errorf("%s is kept by banger itself", p)
	}
	return p, nil
}

// plain refuses what no path of an entry may have.
func plain(key, p string) error {
	switch {
	case p == "":
		return fmt.Errorf("%s is missing", key)
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("%s holds a zero byte", key)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return fmt.Errorf("%s contains \"..\"", key)
	}
	return nil
}

// fileMode reads "0600", or 0o600 as TOML has it.
func fileMode(v any) (fs.FileMode, error) {
	text, ok := v.(string)
	if n, isNumber := v.(int64); isNumber {
		text, ok = strconv.FormatInt(n, 8), true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
	if !ok || err != nil || n == 0 || n > 0o777 {
		return 0, fmt.Errorf("mode is %v; give one such as \"0600\", at most \"0777\"", v)
	}
	return fs.FileMode(n), nil
}

// tablesOf recognises [[KEY]], and [{…}, {…}].
func tablesOf(v any) ([]map[string]any, bool) {
	if t, ok := v.([]map[string]any); ok {
		return t, true
	}
	list, ok := v.([]any)
	tables := make([]map[string]any, 0, len(list))
	for _, e := range list {
		t, isTable := e.(map[string]any)
		tables, ok = append(tables, t), ok && isTable
	}
	return tables, ok
}

func takesTables(key string) bool {
	for _, k := range Keys() {
		if k.Name == key {
			return k.setTables != nil
		}
	}
	return false
}
