package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"banger/api"
)

func newPortsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "ports VM",
		Short:             "list what listens in a VM and how to reach it from here",
		Args:              needOne("the name or id of a VM", "banger ps lists them"),
		ValidArgsFunction: a.completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			ports, err := c.Ports(cmd.Context(), ref(args[0]))
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Out, append([]api.Port{}, ports...))
			}
			t := newTable("PORT", "PROTOCOL", "ADDRESS", "PROCESS", "REACH")
			for _, p := range ports {
				t.add(strconv.Itoa(p.Port), p.Protocol, p.Address, p.Process, p.Reach)
			}
			return t.write(a.Out)
		},
	}
}
