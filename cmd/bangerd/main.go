// Command bangerd is banger's daemon; see package daemon.
package main

import (
	"context"
	"os"

	"banger/internal/daemon"
)

func main() { os.Exit(daemon.Main(context.Background(), os.Args[1:], daemon.OS())) }
