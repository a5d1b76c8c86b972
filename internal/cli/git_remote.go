package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"banger/api"
	"banger/client"
)

// GitRemote is git's helper for addresses like banger::NAME[/PATH] (gitremote-helpers(7)). It connects git on this side
// with git in the guest, over the agent's channel. Without a path it is the repository that was brought into the VM.
func GitRemote(ctx context.Context, args []string, stdio IO) int {
	a, stop := newApp(ctx, stdio)
	defer stop()
	code, err := a.gitRemote(args)
	a.closeClient()
	if err != nil {
		a.printError(err)
		return exitFailure
	}
	return code
}

func (a *app) gitRemote(args []string) (int, error) {
	if len(args) != 2 {
		return 0, api.Errorf(api.CodeInvalid, "git-remote-banger is started by git").WithHint("git clone banger::NAME")
	}
	// Git says a line, and waits for the answer: nothing is read ahead that belongs to the guest.
	in := bufio.NewReaderSize(a.In, 16)
	for {
		said, err := in.ReadString('\n')
		if err != nil {
			return 0, nil //nolint:nilerr // git has gone, or has nothing more to say
		}
		word, service, _ := strings.Cut(strings.TrimSuffix(said, "\n"), " ")
		switch word {
		case "capabilities":
			fmt.Fprint(a.Out, "connect\n\n")
		case "connect":
			return a.gitConnect(args[1], service, in)
		case "":
			return 0, nil
		default:
			return 0, api.Errorf(api.CodeUnsupported, "git asks for %q, which is not known here", word)
		}
	}
}

func (a *app) gitConnect(address, service string, in io.Reader) (int, error) {
	var argv []string
	switch service {
	case "git-upload-pack":
		argv = []string{"git", "upload-pack"}
	case "git-receive-pack":
		// A push to what is checked out moves its files, too, and is refused where they were changed.
		argv = []string{"git", "-c", "receive.denyCurrentBranch=updateInstead", "receive-pack"}
	default:
		fmt.Fprint(a.Out, "fallback\n")
		return 0, nil
	}
	name, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(address, "banger::"), "//"), "/")
	if name == "" {
		return 0, api.Errorf(api.CodeInvalid, "%q names no VM", address).WithHint("git clone banger::NAME[/PATH]")
	}
	c, err := a.daemon()
	if err != nil {
		return 0, err
	}
	vm, err := c.VM(a.soft, ref(name))
	if err != nil {
		return 0, err
	}
	if path != "" {
		path = "/" + path
	}
	w, known := recorded(vm, path, "")
	if !known && path != "" { // below the user's home, as prepare takes it
		w, known = recorded(vm, strings.TrimPrefix(path, "/"), "")
	}
	switch {
	case known:
		path = w.GuestPath
	case path == "" && len(vm.Workspaces) > 1:
		return 0, api.Errorf(api.CodeInvalid, "VM %s has several repositories", vm.Name).WithHint("banger::%s%s", vm.Name, vm.Workspaces[0].GuestPath)
	case path == "":
		path = "/root/repo"
	}
	defer a.sayWaking(c, vm.ID)()
	if _, err := fmt.Fprint(a.Out, "\n"); err != nil {
		return 0, err
	}
	spec := api.ExecSpec{
		Argv: append(argv, path), User: w.User, Stdin: true,
		// Whoever of the guest owns the repository: its configuration is the guest's own affair.
		Env: []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	res, err := c.Exec(a.soft, vm.ID, spec, client.ExecIO{Stdin: in, Stdout: a.Out, Stderr: a.Err})
	if err != nil {
		return 0, err
	}
	if res.ExitCode == exitNotFound {
		return 0, api.Errorf(api.CodeUnsupported, "the image of VM %s has no git", vm.Name).WithHint("banger run --image debian …, which has it")
	}
	if res.ExitCode != 0 && !known {
		e := api.Errorf(api.CodeNotFound, "git in VM %s cannot serve %s, which banger brought nothing to", vm.Name, printable(path))
		if len(vm.Workspaces) > 0 {
			return 0, e.WithHint("banger::%s%s", vm.Name, vm.Workspaces[0].GuestPath)
		}
		return 0, e.WithHint("banger vm workspace prepare %s PATH", vm.Name)
	}
	return res.ExitCode, nil
}
