package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

func newImageCmd(a *app) *cobra.Command {
	cmd := group("image", "build, import, save, list and delete images (root disks)")
	get := func(ctx context.Context, c *client.Client, ref string) (any, *fields, error) {
		i, err := c.Image(ctx, ref)
		return i, imageFields(a, i), err
	}
	cmd.AddCommand(newImageBuildCmd(a), newImageImportCmd(a), newImageSaveCmd(a),
		objectList[api.Image]{kind: "image", list: (*client.Client).Images, listing: listing[api.Image]{heading: []string{"NAME", "DIGEST", "SIZE", "USED", "INIT", "SSH", "SOURCE", "CREATED"}, row: func(a *app, i api.Image) []string {
			return []string{i.Name, short(i.Digest), config.FormatSize(i.SizeBytes), config.FormatSize(i.UsedBytes), i.Init, yesNo(i.HasSSHD), i.Source, a.ago(i.CreatedAt)}
		}, word: func(i api.Image) string { return i.Digest }}}.command(a),
		newObjectShowCmd(a, "image", a.completeImages, get),
		newObjectDeleteCmd(a, "image", a.completeImages, get, a.deleteImage))
	return cmd
}

// deleteImage says which templates go with an image.
func (a *app) deleteImage(c *client.Client, ctx context.Context, ref string) error {
	before, _ := c.Templates(ctx) // for the note only
	i, err := c.Image(ctx, ref)
	if err == nil {
		err = c.DeleteImage(ctx, ref)
	}
	if err != nil {
		return err
	}
	for _, t := range before {
		if t.ImageDigest == i.Digest {
			a.note("template %s was frozen from image %s and goes with it", t.ID, i.Name)
		}
	}
	return nil
}

func imageFields(a *app, i api.Image) *fields {
	f := &fields{}
	f.add("name", i.Name)
	f.add("digest", i.Digest)
	f.add("size", config.FormatSize(i.SizeBytes))
	f.add("used", config.FormatSize(i.UsedBytes))
	f.add("init", i.Init)
	f.add("ssh server", yesNo(i.HasSSHD))
	f.add("git", yesNo(i.HasGit))
	f.add("source", i.Source)
	f.add("created", a.ago(i.CreatedAt))
	return f
}

type imageBuildOptions struct {
	name, mirror, script string
	packages             []string
	size                 sizeFlag
}

func newImageBuildCmd(a *app) *cobra.Command {
	var o imageBuildOptions
	cmd := &cobra.Command{
		Use:   "build [flags] debian|minimal",
		Short: "build an image",
		Long: `Build an image: debian (Debian bookworm with systemd, OpenSSH and the usual tools; needs
mmdebstrap and a mirror) or minimal (busybox, a few MB). A --run script runs in the new
root as its last step; one that fails fails the build.`,
		Args:              needOne("a recipe", "banger image build debian, or banger image build minimal"),
		ValidArgsFunction: fixed("debian", "minimal"),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the image (default: the recipe's)")
	f.StringSliceVar(&o.packages, "packages", nil, "install these `PACKAGES` instead of the recipe's (debian)")
	f.StringVar(&o.mirror, "mirror", "", "Debian mirror to build from, a `URL` (default: this host's)")
	f.StringVar(&o.script, "run", "", "run this `SCRIPT` in the new root (debian)")
	f.Var(&o.size, "size", "size of the root disk (default: as small as its contents allow)")
	complete(cmd, "name", nothing)
	return cmd
}

// maxScript bounds a build script, which travels in a request.
const maxScript = 256 << 10

func (o *imageBuildOptions) run(ctx context.Context, a *app, recipe string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	build := api.ImageBuild{Recipe: recipe, Name: o.name, Packages: o.packages, Mirror: o.mirror, SizeBytes: o.size.bytes}
	if o.mirror == "" && cfg.Explicit("mirror") && cfg.Mirror != "host" {
		build.Mirror = cfg.Mirror
	}
	if o.script != "" {
		script, err := os.ReadFile(o.script)
		if err != nil {
			return api.Errorf(api.CodeInvalid, "cannot read the script: %w", err)
		}
		if len(script) > maxScript {
			return api.Errorf(api.CodeInvalid, "the script %s is over %s", o.script, config.FormatSize(maxScript))
		}
		build.Run = string(script)
	}
	return a.makeObject(ctx, "image", func(ctx context.Context, c *client.Client) (api.Operation, error) { return c.BuildImage(ctx, build) })
}

func newImageImportCmd(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import [flags] PATH",
		Short: "make an image of a root tarball, a directory or an ext4 file",
		Args:  needOne("a path", "banger image import root.tar.gz"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := existing(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = objectName(path)
			}
			return a.makeObject(cmd.Context(), "image", func(ctx context.Context, c *client.Client) (api.Operation, error) {
				return c.ImportImage(ctx, api.ImageImport{Name: name, Path: path})
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the image (default: made from the file's)")
	return cmd
}

func newImageSaveCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "save VM NAME",
		Short: "make an image of a running VM's root",
		Long: `Make an image of a running VM's root, which runs on: it is done in a fork. What makes the VM
this one machine is left out (its machine id, names, ssh keys, random seeds, journals), and so is its work
disk: /root and /home of the new image are those of the VM's own.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return api.Errorf(api.CodeInvalid, "%s needs a VM and a name for the image", cmd.CommandPath()).WithHint("banger ps; usage: %s", cmd.UseLine())
			}
			return nil
		},
		ValidArgsFunction: a.completeRunningOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.makeObject(cmd.Context(), "image", func(ctx context.Context, c *client.Client) (api.Operation, error) {
				return c.SaveImage(ctx, api.ImageSave{VM: args[0], Name: args[1]})
			})
		},
	}
}

// existing makes a path absolute, since the daemon has another directory, and checks that it is there.
func existing(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(abs)
	}
	if err != nil {
		return "", api.Errorf(api.CodeNotFound, "cannot read %s: %w", path, err)
	}
	return abs, nil
}

// objectName makes a name of a file's: "Root FS.tar.gz" becomes "root-fs".
func objectName(path string) string {
	base := strings.ToLower(filepath.Base(path))
	for _, ext := range []string{".gz", ".xz", ".zst", ".tgz", ".tar", ".ext4", ".img"} {
		base = strings.TrimSuffix(base, ext)
	}
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, base), ".-_")
}
