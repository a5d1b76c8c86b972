package cli

import (
	"context"
	"os"
	"os/user"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/system"
)

func newSystemCmd(a *app) *cobra.Command {
	cmd := group("system", "make banger a service of this host: install, status, uninstall")
	cmd.AddCommand(newSystemInstallCmd(a), newSystemStatusCmd(a), newSystemUninstallCmd(a), newSystemShutdownCmd(a), newSystemBootCmd(a))
	return cmd
}

// systemOptions are the flags of all three.
type systemOptions struct {
	user      string
	root      bool
	userUnits bool
	rootDir   string
	from      string
	purge     bool
}

func (o *systemOptions) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.userUnits, "user-units", false, "units of your own systemd, without root")
	cmd.Flags().StringVar(&o.rootDir, "root-dir", "", "put `DIR` before every path and leave systemd alone")
	complete(cmd, "root-dir", nothing)
}

func newSystemInstallCmd(a *app) *cobra.Command {
	var o systemOptions
	cmd := &cobra.Command{
		Use: "install [flags]", Short: "install banger as units of systemd: VMs outlive restarts, and are suspended when the host goes down",
		Long: `Install banger as units of systemd. The daemon runs as the user who calls sudo (or --user), with
bangerd-root beside it for what only root may do; with --root it is root itself. --user-units needs no
root at all. Programs are copied to /usr/local/lib/banger. VMs go on running when the units restart; when
the host goes down they are suspended or stopped (on_host_shutdown), and those with --autostart
start when it is up again. Calling it again changes or repairs an installation.`,
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			so, err := o.options(a)
			if err != nil {
				return err
			}
			if err := o.stopOther(cmd.Context(), a); err != nil {
				return err
			}
			if err := system.Install(so); err != nil {
				return err
			}
			if so.Kind == system.User && so.Dir == "" && !lingers() {
				a.note("they run while you are logged in; for ever: loginctl enable-linger")
			}
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.user, "user", "", "whose daemon it is: the user's `NAME` (default: who calls sudo)")
	cmd.Flags().StringVar(&o.from, "from", "", "the `DIR` that the programs lie in (default: this program's)")
	cmd.Flags().BoolVar(&o.root, "root", false, "the daemon is root")
	cmd.MarkFlagsMutuallyExclusive("user", "root", "user-units")
	complete(cmd, "user", nothing)
	return cmd
}

// lingers reports whether this user's systemd runs from boot on, logged in or not (loginctl(1), enable-linger).
func lingers() bool {
	u, err := user.Current()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join("/var/lib/systemd/linger", u.Username))
	return err == nil
}

// stopOther stops a daemon that was started by a command and has the same state: VMs go on running.
func (o *systemOptions) stopOther(ctx context.Context, a *app) error {
	cfg, err := a.config()
	if err != nil || o.rootDir != "" || system.Runs(cfg) {
		return err
	}
	c, err := a.runningDaemon()
	if err != nil {
		return err
	}
	if err := c.StopDaemon(ctx); err != nil && api.CodeOf(err) != api.CodeUnreachable {
		return err
	}
	return nil
}

// options says what is installed for whom.
func (o *systemOptions) options(a *app) (system.Options, error) {
	cfg, err := a.config()
	if err != nil {
		return system.Options{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return system.Options{}, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return system.Options{}, err
	}
	so := system.Options{Kind: system.Root, Programs: filepath.Dir(self), Config: cfg, Dir: o.rootDir, Say: func(text string) { a.note("%s", text) }}
	if o.rootDir != "" && !filepath.IsAbs(o.rootDir) {
		return so, api.Errorf(api.CodeInvalid, "--root-dir %s is not an absolute path", o.rootDir)
	}
	if o.from != "" {
		if so.Programs, err = filepath.Abs(o.from); err != nil {
			return so, err
		}
	}
	if o.userUnits {
		so.Kind, so.UserUnits = system.User, a.userUnits()
		return so, nil
	}
	name := o.user
	if name == "" && !o.root {
		name = a.env["SUDO_USER"]
	}
	if name == "" && !o.root {
		return so, api.Errorf(api.CodeInvalid, "it is not clear whose daemon this is to be").
			WithHint("sudo banger system install --user NAME   (or --root)")
	}
	if name == "" || name == "root" {
		return so, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return so, api.Errorf(api.CodeNotFound, "there is no user %s: %w", name, err)
	}
	so.Kind, so.User = system.Helped, u
	return so, nil
}

// userUnits is where a user's own systemd looks for what the user has put there (systemd.unit(5)).
func (a *app) userUnits() string {
	if dir := a.env["XDG_CONFIG_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "systemd/user")
	}
	return filepath.Join(a.home(), ".config/systemd/user")
}

func (a *app) home() string {
	if dir := a.env["HOME"]; filepath.IsAbs(dir) {
		return dir
	}
	return "/"
}

// found is for commands that find out by themselves what is installed.
func (o *systemOptions) found(a *app) (system.Options, error) {
	o.root = true
	return o.options(a)
}

func newSystemStatusCmd(a *app) *cobra.Command {
	var o systemOptions
	cmd := &cobra.Command{
		Use: "status [flags]", Short: "say what is installed and whether it runs; exit code 1 if not",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			so, err := o.found(a)
			if err != nil {
				return err
			}
			s, err := system.Look(so)
			if err != nil {
				return err
			}
			if a.json {
				err = writeJSON(a.Out, s)
			} else {
				err = printSystem(a, s)
			}
			if err == nil && !running(s) {
				return exitWith(exitFailure)
			}
			return err
		},
	}
	o.flags(cmd)
	return cmd
}

// running: everything that is installed is active, or systemd was not asked.
func running(s system.Status) bool {
	for _, u := range s.Units {
		if u.Active != "active" && u.Active != "unknown" {
			return false
		}
	}
	return len(s.Units) > 0
}

func printSystem(a *app, s system.Status) error {
	f := &fields{}
	switch s.Kind {
	case system.Helped:
		f.add("installed", "for "+s.User+", with bangerd-root")
	case system.Root:
		f.add("installed", "for root")
	case system.User:
		f.add("installed", "as units of your own systemd")
	default:
		f.add("installed", "no; sudo banger system install")
	}
	for _, u := range s.Units {
		f.add(u.Name, u.Active+", "+u.Enabled)
	}
	f.add("state", s.State)
	return f.write(a.Out)
}

func newSystemUninstallCmd(a *app) *cobra.Command {
	var o systemOptions
	cmd := &cobra.Command{
		Use: "uninstall [flags]", Short: "remove what install has made; machines are suspended or stopped, and kept",
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			so, err := o.found(a)
			if err != nil {
				return err
			}
			s, err := system.Look(so)
			if err != nil {
				return err
			}
			if so.Dir == "" && s.Kind != "" {
				a.endVMs(cmd.Context(), so)
			}
			if err := system.Uninstall(so, o.purge); err != nil {
				return err
			}
			if s.State != "" && !o.purge {
				a.note("the machines are kept in %s; %s removes them", s.State, o.purgeCommand())
			}
			if dir := o.keys(so, s); dir != "" {
				a.note("the ssh key for guests is kept in %s", dir)
			}
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.purge, "purge", false, "remove all machines and images as well")
	return cmd
}

func (o *systemOptions) purgeCommand() string {
	if o.userUnits {
		return "banger system uninstall --user-units --purge"
	}
	return "sudo banger system uninstall --purge"
}

// keys is the directory of the ssh key for guests, of the user whose daemon it was; empty where there is none. It may be in use for
// other guests, so nobody but the user removes it.
func (o *systemOptions) keys(so system.Options, s system.Status) string {
	dir := so.Config.Paths.SSH
	if u, err := user.Lookup(s.User); err == nil {
		dir = filepath.Join(u.HomeDir, ".local/state/banger/ssh")
	}
	if _, err := os.Stat(dir); err != nil || o.rootDir != "" {
		return ""
	}
	return dir
}
