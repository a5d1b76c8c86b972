# changed PATH OLD NEW: the names of what differs between two trees.
cd "$1" && git rev-parse -q --verify "$2^{tree}" >/dev/null || exit $no_base
git diff-tree -r -z --no-renames --name-only "$2" "$3"
