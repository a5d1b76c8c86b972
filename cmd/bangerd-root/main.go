// Command bangerd-root does for a bangerd that is not root what only root may; see package rootd.
package main

import (
	"context"
	"os"

	"banger/internal/host/rootd"
)

func main() { os.Exit(rootd.Main(context.Background(), os.Args[1:], os.Stderr)) }
