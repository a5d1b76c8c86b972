# export PATH BASE UNTRACKED: the patch from BASE to what is there. BASE is a commit, prepared for what was brought, or
# empty for the commit that was. First come the sizes of what follows, in a line: a list of what has changed, and the patch.
command -v git >/dev/null 2>&1 || exit $no_git
at "$1"
[ -e "$d" ] && cd "$at" && git rev-parse --git-dir >/dev/null || exit $no_repo
[ -d "$d" ] || d=$(git rev-parse --absolute-git-dir) || exit 1
scratch
aside
if [ -e "$d/index" ]; then cp "$d/index" "$t/index" || exit 1; fi
case $2 in
'')
	if [ -f "$d/banger/prepared" ]; then
		base=$(git rev-parse -q --verify refs/banger/prepared-head || git hash-object -t tree /dev/null) || exit 1
	else
		exit $no_base
	fi
	;;
prepared) base=$(git rev-parse -q --verify refs/banger/prepared) || exit $no_base ;;
*) base=$(git rev-parse -q --verify "$2^{commit}") || exit $no_base ;;
esac
if [ "$3" = yes ]; then ours add -A || exit 1; else ours add -u || exit 1; fi
if [ "$2" = prepared ]; then # untracked files that were brought count as well
	git ls-tree -r -z --name-only "$base" >"$t/names" && ours update-index --add --remove -z --stdin <"$t/names" || exit 1
fi
ours diff-index --cached --name-status -M -z "$base" -- >"$t/list" || exit 1
ours diff-index --cached -p --binary --full-index --no-color --no-ext-diff --no-textconv -M -U3 --submodule=short \
	--src-prefix=a/ --dst-prefix=b/ "$base" -- >"$t/patch" || exit 1
echo "$(wc -c <"$t/list") $(wc -c <"$t/patch")"
cat "$t/list" "$t/patch"
