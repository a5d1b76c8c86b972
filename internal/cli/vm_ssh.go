package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

type sshOptions struct {
	user  string
	agent bool
	opts  []string
}

func newSSHCmd(a *app) *cobra.Command {
	var o sshOptions
	cmd := &cobra.Command{
		Use:   "ssh [flags] VM [-- COMMAND [ARG...]]",
		Short: "connect to a VM with OpenSSH",
		Long: `Connect to a VM with this host's OpenSSH client, with banger's own key and known_hosts;
your own are neither read nor written. The connection goes through the daemon, so that it
works with every kind of network. To run commands, banger exec is quicker and exact about
arguments; the image needs an ssh server, which the debian image has.

With -A, programs in the guest may use the keys of your ssh agent for as long as you are connected,
and so may whoever is root there. Without it they cannot.

One COMMAND alone is a line for the guest's shell; several words reach the guest as they are.`,
		Example: `  banger ssh web
  banger ssh -A web -- git push
  banger ssh -o LocalForward=8080:localhost:80 web`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return api.Errorf(api.CodeInvalid, "%s needs the name or id of a VM", cmd.CommandPath()).WithHint("banger ps lists them; usage: %s", cmd.UseLine())
			}
			return nil
		},
		ValidArgsFunction: a.completeRunningOne,
		Annotations:       map[string]string{takesCommand: "yes", failsWith125: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, args[0], args[1:])
		},
	}
	cmd.Flags().StringVarP(&o.user, "user", "u", "root", "`USER` in the guest")
	cmd.Flags().BoolVarP(&o.agent, "forward-agent", "A", false, "let the guest use your ssh agent")
	cmd.Flags().StringArrayVarP(&o.opts, "option", "o", nil, "pass an `OPTION` on to ssh, such as ServerAliveInterval=30")
	return cmd
}

func (o *sshOptions) run(ctx context.Context, a *app, target string, argv []string) error {
	if user, rest, ok := strings.Cut(target, "@"); ok {
		o.user, target = user, rest
	}
	if o.user == "" || strings.HasPrefix(o.user, "-") {
		return api.Errorf(api.CodeInvalid, "%q is no user", o.user)
	}
	if o.agent && a.env["SSH_AUTH_SOCK"] == "" {
		return api.Errorf(api.CodeMissing, "there is no ssh agent to forward: SSH_AUTH_SOCK is not set").WithHint(`eval "$(ssh-agent)" && ssh-add`)
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx, ref(target))
	if err != nil {
		return err
	}
	if !reachable(vm) {
		return api.Errorf(api.CodeConflict, "%s is %s", vm.Name, vm.State).WithHint("banger start %s", vm.Name)
	}
	if err := checkSSHD(ctx, c, vm); err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if _, err := sshIdentity(cfg, vm); err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return api.Errorf(api.CodeMissing, "there is no ssh client on this host").WithHint("sudo apt-get install openssh-client, or: banger shell %s", vm.Name)
	}
	self, err := os.Executable()
	if err != nil {
		return api.Errorf(api.CodeInternal, "cannot find banger's own program: %w", err)
	}
	args := []string{"-F", "none"}
	for _, setting := range sshSettings(cfg, self) {
		args = append(args, "-o", setting[0]+"="+setting[1])
	}
	if o.agent {
		args = append(args, "-A")
	}
	for _, opt := range o.opts {
		args = append(args, "-o", opt)
	}
	args = append(args, "-l", o.user, "--", vm.Runtime.DNSName)
	return a.runSSH(program, append(args, remoteCommand(argv)...))
}

// remoteCommand is what ssh is to send. ssh joins its arguments by spaces and the guest's
// shell splits them again; quoted they arrive as they are. A single one is a line for that shell.
func remoteCommand(argv []string) []string {
	if len(argv) < 2 {
		return argv
	}
	quoted := make([]string, len(argv))
	for i, word := range argv {
		quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return quoted
}

// checkSSHD says early what ssh would say late and unclearly.
func checkSSHD(ctx context.Context, c *client.Client, vm api.VM) error {
	image, err := c.Image(ctx, vm.Runtime.ImageDigest)
	if err != nil || image.HasSSHD {
		return nil //nolint:nilerr // an image that is gone tells nothing; the connection will
	}
	ports, err := c.Ports(ctx, vm.ID)
	for _, p := range ports {
		if p.Port == 22 {
			return nil // somebody has installed one
		}
	}
	if err != nil && api.CodeOf(err) == api.CodeNotReady {
		return err
	}
	return api.Errorf(api.CodeUnsupported, "the image of %s (%s) has no ssh server", vm.Name, vm.Spec.Image).WithHint("banger shell %s", vm.Name)
}

// sshSettings are OpenSSH's options for every connection to a VM, in ssh_config's words.
// No key of the user's own is offered, and no key but the pinned one is taken.
func sshSettings(cfg *config.Config, self string) [][2]string {
	return [][2]string{
		{"ProxyCommand", proxyCommand(cfg, self)},
		{"UserKnownHostsFile", quotedPath(cfg.Paths.KnownHosts())},
		{"GlobalKnownHostsFile", "/dev/null"},
		{"StrictHostKeyChecking", "yes"},
		{"UpdateHostKeys", "no"},
		{"VerifyHostKeyDNS", "no"},
		{"CheckHostIP", "no"},
		{"CanonicalizeHostname", "no"},
		{"IdentityFile", quotedPath(cfg.Paths.SSHKey())},
		{"IdentitiesOnly", "yes"},
		{"PreferredAuthentications", "publickey"},
		{"HostKeyAlgorithms", "ssh-ed25519"},
		{"LogLevel", "ERROR"},
	}
}

// proxyCommand is run by the user's shell, after ssh has replaced %h and %p. The
// directories are told where they are not what another process of the user would derive.
func proxyCommand(cfg *config.Config, self string) string {
	words := []string{}
	for _, v := range cfg.Values() {
		switch v.Key {
		case "state_dir", "runtime_dir", "ssh_dir", "config_dir":
			if v.Source == config.FromEnv || v.Source == config.FromFlag {
				words = append(words, v.Env+"="+shellQuote(v.Value))
			}
		}
	}
	if len(words) > 0 {
		words = append([]string{"env"}, words...)
	}
	return strings.Join(append(words, shellQuote(self), "ssh-proxy", "%h", "%p"), " ")
}

// shellQuote makes one word of s for a POSIX shell, and keeps ssh from expanding % in it.
func shellQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// quotedPath is a file name for ssh_config: quoted, and with % and ~ taken as they are.
func quotedPath(p string) string { return `"` + strings.ReplaceAll(p, "%", "%%") + `"` }

// runSSH runs the client in our place. The terminal's signals reach it by themselves;
// others are passed on.
func (a *app) runSSH(program string, args []string) error {
	cmd := exec.Command(program, args...) //nolint:gosec // the user's ssh, with an argument vector of ours
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	err := cmd.Start()
	if err != nil {
		return api.Errorf(api.CodeInternal, "cannot run ssh: %w", err)
	}
	release := a.signals.take(func(sig syscall.Signal) {
		if sig != syscall.SIGINT && sig != syscall.SIGQUIT {
			_ = cmd.Process.Signal(sig) // it may have ended this moment
		}
	})
	defer release()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return exitWith(128 + int(ws.Signal()))
		}
		return exitWith(exit.ExitCode())
	}
	return err
}
