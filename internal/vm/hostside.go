package vm

import (
	"os"

	"banger/internal/durable"
)

// writeSecret writes a file that only the daemon may read.
func writeSecret(path string, text []byte) error { return durable.WriteFile(path, text, 0o600) }

func removeFiles(paths ...string) {
	for _, p := range paths {
		_ = os.Remove(p) // missing is as good as removed; a directory that is to go is removed whole later
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
