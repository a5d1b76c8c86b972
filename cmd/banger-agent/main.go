// banger-agent is the program inside banger's guests: see package agent.
package main

import (
	"context"
	"os"

	"banger/internal/agent"
)

func main() {
	os.Exit(agent.Main(context.Background(), os.Args, agent.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
