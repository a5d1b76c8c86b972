package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

type sshConfigOptions struct{ install, uninstall bool }

func newSSHConfigCmd(a *app) *cobra.Command {
	var o sshConfigOptions
	cmd := &cobra.Command{
		Use:   "ssh-config [flags]",
		Short: "let ssh, scp, rsync and editors reach VMs as NAME.vm",
		Long: `Print what makes OpenSSH reach VMs as NAME.vm. With --install it is put into a file of
banger's own, and your ~/.ssh/config gets one Include line for that; with --uninstall both
go again. Nothing else in your configuration is touched, nor is your known_hosts.`,
		Args:              needNone,
		ValidArgsFunction: nothing,
		RunE:              func(*cobra.Command, []string) error { return o.run(a) },
	}
	cmd.Flags().BoolVar(&o.install, "install", false, "include it in ~/.ssh/config")
	cmd.Flags().BoolVar(&o.uninstall, "uninstall", false, "take it out again")
	cmd.MarkFlagsMutuallyExclusive("install", "uninstall")
	return cmd
}

func (o *sshConfigOptions) run(a *app) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return api.Errorf(api.CodeInternal, "cannot find banger's own program: %w", err)
	}
	user, err := userSSHConfig(a)
	if err != nil {
		return err
	}
	ours := cfg.Paths.SSHConfig()
	switch {
	case o.install:
		if err := writeOurs(ours, sshConfigText(cfg, self)); err != nil {
			return err
		}
		changed, err := editInclude(user, includeLine(ours))
		if err != nil {
			return err
		}
		a.note("%s %s %s; now: ssh NAME.vm", user, map[bool]string{true: "includes", false: "already includes"}[changed], ours)
		return nil
	case o.uninstall:
		changed, err := editInclude(user, "")
		if err != nil {
			return err
		}
		if err := removeOurs(ours); err != nil {
			return err
		}
		a.note("%s %s", user, map[bool]string{true: "no longer includes banger's part", false: "does not include banger's part"}[changed])
		return nil
	}
	_, err = fmt.Fprint(a.Out, sshConfigText(cfg, self))
	return err
}

// sshConfigText is the file that is included. "User root" is for a bare `ssh x.vm`; a user on the
// command line goes before it.
func sshConfigText(cfg *config.Config, self string) string {
	var b strings.Builder
	b.WriteString("# Made by banger ssh-config; changes are lost when it is installed again.\nHost *.vm\n")
	// No agent is forwarded because of a setting that was meant for other machines: ssh -A says so for one connection.
	for _, s := range append(sshSettings(cfg, self), [2]string{"ForwardAgent", "no"}, [2]string{"User", "root"}) {
		fmt.Fprintf(&b, "  %s %s\n", s[0], s[1])
	}
	return b.String()
}
