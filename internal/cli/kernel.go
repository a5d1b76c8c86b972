package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

func newKernelCmd(a *app) *cobra.Command {
	cmd := group("kernel", "build, import, list and delete kernels")
	get := func(ctx context.Context, c *client.Client, ref string) (any, *fields, error) {
		k, err := c.Kernel(ctx, ref)
		return k, kernelFields(a, k), err
	}
	cmd.AddCommand(newKernelBuildCmd(a), newKernelImportCmd(a),
		objectList[api.Kernel]{kind: "kernel", list: (*client.Client).Kernels, listing: listing[api.Kernel]{heading: []string{"NAME", "DIGEST", "VERSION", "USED", "SOURCE", "CREATED"}, row: func(a *app, k api.Kernel) []string {
			return []string{k.Name, short(k.Digest), k.Version, config.FormatSize(k.UsedBytes), k.Source, a.ago(k.CreatedAt)}
		}, word: func(k api.Kernel) string { return k.Digest }}}.command(a),
		newObjectShowCmd(a, "kernel", a.completeKernels, get),
		newObjectDeleteCmd(a, "kernel", a.completeKernels, get, (*client.Client).DeleteKernel))
	return cmd
}

func kernelFields(a *app, k api.Kernel) *fields {
	f := &fields{}
	f.add("name", k.Name)
	f.add("digest", k.Digest)
	f.add("version", k.Version)
	f.add("used", config.FormatSize(k.UsedBytes))
	f.add("source", k.Source)
	f.add("created", a.ago(k.CreatedAt))
	return f
}

func newKernelBuildCmd(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "build [flags] debian",
		Short:             "make a kernel of Debian's cloud kernel package, without installing it",
		Args:              needOne("a recipe", "banger kernel build debian"),
		ValidArgsFunction: fixed("debian"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.makeObject(cmd.Context(), "kernel", func(ctx context.Context, c *client.Client) (api.Operation, error) {
				return c.BuildKernel(ctx, api.KernelBuild{Recipe: args[0], Name: name})
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the kernel (default: the recipe's)")
	return cmd
}

func newKernelImportCmd(a *app) *cobra.Command {
	var name, modules string
	cmd := &cobra.Command{
		Use:   "import [flags] VMLINUZ",
		Short: "make a kernel of a file and its modules",
		Args:  needOne("a kernel", "banger kernel import --modules /lib/modules/VERSION vmlinuz"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := existing(args[0])
			if err != nil {
				return err
			}
			if modules != "" {
				if modules, err = existing(modules); err != nil {
					return err
				}
			}
			if name == "" {
				name = objectName(filepath.Base(path))
			}
			return a.makeObject(cmd.Context(), "kernel", func(ctx context.Context, c *client.Client) (api.Operation, error) {
				return c.ImportKernel(ctx, api.KernelImport{Name: name, Path: path, ModulesDir: modules})
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the kernel (default: made from the file's)")
	cmd.Flags().StringVar(&modules, "modules", "", "the kernel's lib/modules/VERSION `DIR`")
	return cmd
}
