// Command git-remote-banger lets git speak to repositories in VMs, as banger::NAME[/PATH]: see package cli.
package main

import (
	"context"
	"os"

	"banger/internal/cli"
)

func main() { os.Exit(cli.GitRemote(context.Background(), os.Args[1:], cli.OS())) }
