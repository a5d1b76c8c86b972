// Package cli is the command line of banger: flags, output, exit codes. It owns what a
// person or script sees and decides nothing about VMs; all of that is asked of the
// daemon through package client. Only cmd/banger and the scenario tests import it.
//
// One file per command: an options struct, its flags, and a run method.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"banger/api"
)

// IO is what a run of banger is connected to.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	// Environ is as os.Environ gives it.
	Environ []string
	// UID is the caller's.
	UID int
}

// OS is the IO of this process.
func OS() IO {
	return IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ(), UID: os.Geteuid()}
}

// Main runs one command and returns the exit code of the process.
func Main(ctx context.Context, args []string, stdio IO) int {
	a, stop := newApp(ctx, stdio)
	defer stop()
	root := newRoot(a)
	root.SetArgs(args)
	cmd, rest, err := root.Find(args)
	if err == nil && cmd.Annotations[takesCommand] != "" {
		// As with docker, flags behind the VM's name belong to the guest's command; where
		// `--` says what does, ours may stand anywhere before it.
		cmd.Flags().SetInterspersed(slices.Contains(rest, "--"))
	}
	cmd, err = root.ExecuteContextC(a.soft)
	return a.finish(cmd, err)
}

// takesCommand marks the commands whose positionals end in a command for the guest.
const takesCommand = "takes-command"

// failsWith125 marks the commands that exit with a code from the guest, so that
// banger's own failures need a code of their own.
const failsWith125 = "fails-with-125"

// Exit codes of banger's own; any other is the guest's.
const (
	exitFailure    = 1   // banger's own failure
	exitTimeout    = 124 // it did not happen in the time allowed
	exitOwnFailure = 125 // banger's own failure, where any other code is the guest's
	exitNotExec    = 126 // the command in the guest cannot be executed
	exitNotFound   = 127 // there is no such command in the guest
)

// exitError ends the program with a code and without a message.
type exitError struct{ code int }

func (e *exitError) Error() string { return "exit" }

// exitWith is nil for 0.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code}
}

// finish says what went wrong, and gives the exit code.
func (a *app) finish(cmd *cobra.Command, err error) int {
	a.closeClient()
	if sig := a.signals.interruptedBy(); sig != 0 && err != nil {
		if e := api.AsError(err); e.Code != api.CodeCancelled && !errors.Is(err, context.Canceled) && !errors.As(err, new(*exitError)) {
			a.printError(err)
		}
		return 128 + int(sig)
	}
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	}
	a.printError(err)
	if cmd != nil && cmd.Annotations[failsWith125] != "" {
		return exitOwnFailure
	}
	return exitFailure
}
