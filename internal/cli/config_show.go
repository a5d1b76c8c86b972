package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

func newConfigCmd(a *app) *cobra.Command {
	cmd := group("config", "look at the configuration")
	cmd.AddCommand(&cobra.Command{
		Use: "show", Short: "show every value and where it comes from",
		Long: `Show every value of the configuration and where it comes from. A flag goes over the
environment (BANGER_KEY), that over config.toml, and that over what is derived from this host.

Files of this host that VMs are to have are named in config.toml alone, each as a table:

  [[file_sync]]
  host = "~/.netrc"       # a file or directory below your home
  guest = "~/.netrc"      # below /root, or /home/USER; left out: as on the host
  mode = "0600"           # of files; left out: 0600, or 0700 for what you may execute

They are put onto the work disk at each start, thaws and forks included, as they are on the host by then, over
what is there; for a guest's own changes they are no place. A directory brings what is in it, and removes
nothing. Symbolic links are not followed. Only the home of the user whom the daemon belongs to is ever read:
a daemon of root brings root's files, and nobody else's. Nothing of them is kept in templates, images, logs
or the database; a fork has its source's memory and disks, and so what is in them.`,
		Args: needNone, ValidArgsFunction: nothing,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Out, cfg.Values())
			}
			t := newTable("KEY", "VALUE", "SOURCE", "")
			for _, v := range cfg.Values() {
				t.add(v.Key, v.Value, string(v.Source), v.Detail)
			}
			if err := t.write(a.Out); err != nil {
				return err
			}
			if len(cfg.UnknownEnv) > 0 {
				a.note("note: %s: banger knows no such variable", strings.Join(cfg.UnknownEnv, ", "))
			}
			return nil
		},
	})
	return cmd
}
