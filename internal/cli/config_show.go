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
environment (BANGER_KEY), that over config.toml, and that over what is derived from this host.`,
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
