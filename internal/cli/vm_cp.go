package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func newCpCmd(a *app) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "cp [flags] HOST_PATH VM:PATH | VM:PATH HOST_PATH",
		Short: "copy files and directories into a VM or out of it",
		Long: `Copy a file or a directory tree into a running VM, or out of it. A path in the guest
that does not begin with / is below /root. A target that is a directory gets the source
into it; SOURCE/. copies what is in the directory. A path on this side that has a colon
is written ./like:this.`,
		Example: `  banger cp build/app web:/usr/local/bin/
  banger cp src web:
  banger cp web:/var/log/nginx .`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return api.Errorf(api.CodeInvalid, "%s needs a source and a target", cmd.CommandPath()).WithHint("usage: %s", cmd.UseLine())
			}
			return nil
		},
		ValidArgsFunction: a.completeCp,
		RunE: func(cmd *cobra.Command, args []string) error {
			return copyPaths(cmd.Context(), a, args[0], args[1], user)
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "`OWNER` in the guest, optionally USER:GROUP (default: root)")
	return cmd
}

// guestPath splits VM:PATH. What begins with / or . or has a / before the colon is a path of this host.
func guestPath(arg string) (vm, path string, ok bool) {
	vm, path, found := strings.Cut(arg, ":")
	if !found || vm == "" || strings.ContainsAny(vm, "/") || vm[0] == '.' {
		return "", "", false
	}
	if !strings.HasPrefix(path, "/") {
		path = "/root/" + path
	}
	return ref(vm), path, true
}

func copyPaths(ctx context.Context, a *app, from, to, user string) error {
	fromVM, fromPath, out := guestPath(from)
	toVM, toPath, in := guestPath(to)
	switch {
	case in && out:
		return api.Errorf(api.CodeInvalid, "cp copies between this host and one VM, not from VM to VM").WithHint("banger cp %s DIR, then: banger cp DIR %s", from, to)
	case !in && !out:
		return api.Errorf(api.CodeInvalid, "neither %q nor %q is in a VM", from, to).WithHint("banger cp %s NAME:/PATH", from)
	case in && from == "" || out && to == "":
		return api.Errorf(api.CodeInvalid, "a path is empty").WithHint("banger cp HOST_PATH VM:PATH")
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	vm := fromVM
	if in {
		vm = toVM
	}
	defer a.sayWaking(c, vm)()
	if in {
		return copyIn{c: c, a: a, vm: toVM, user: user}.run(ctx, from, toPath)
	}
	return copyOut{c: c, a: a, vm: fromVM}.run(ctx, fromPath, to)
}

// contentsOnly reports whether a source names what is in a directory: "dir/.".
func contentsOnly(path string) bool { return path == "." || strings.HasSuffix(path, "/.") }

// asDirectory reports whether a target can only be meant as a directory.
func asDirectory(path string) bool { return strings.HasSuffix(path, "/") || contentsOnly(path) }
