# update PATH WORK INDEX HEAD BRANCH_AT  TREE STAGED COMMIT BRANCH  KEEP MUST SHALLOW READONLY
# The repository at PATH is changed from what the first line says, which must still be so, to what the second says. The objects
# are there. KEEP, if not empty, is the time that what is there now is kept under: always where MUST is yes, else where ignored
# files are in the way. SHALLOW is add or replace.
at "$1"
work=$2 index=$3 head=$4 branch_at=$5 tree=$6 staged=$7 commit=$8 branch=$9
shift 9
keep=$1 must=$2 shallow=$3 readonly=$4
cd "$at" || exit 1
(set -C && : >"$d/index.lock") 2>/dev/null || exit $busy
scratch
trap 'rm -rf "$t" "$d/index.lock"' EXIT
trees
[ "$w" = "$work" ] && [ "$i" = "$index" ] && [ "$(git rev-parse -q --verify HEAD)" = "$head" ] || exit $differs

# What is ignored is in no tree: it may be in the way of what comes.
git diff-tree -r -z --no-renames --diff-filter=A --name-only "$w" "$tree" >"$t/new" || exit 1
ours update-index --add --remove -z --stdin <"$t/new" || exit 1
all=$(ours write-tree) || exit 1
if [ "$all" != "$w" ] && [ -z "$keep" ]; then
	git diff-tree -r --no-renames --name-status "$w" "$all" | sed 's/^/file /'
	exit $differs
fi

if [ -n "$keep" ] && { [ "$must" = yes ] || [ "$all" != "$w" ]; }; then
	echo kept
	export GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost
	set --
	[ -z "$head" ] || set -- -p "$head"
	if [ "$i" = conflict ]; then # no tree: the index file itself
		blob=$(git hash-object -w --no-filters "$d/index") || exit 1
		i=$(printf '100644 blob %s\tindex\n' "$blob" | git mktree) || exit 1
	fi
	c=$(git commit-tree "$@" -m 'banger: what was staged' "$i") || exit 1
	set -- "$@" -p "$c"
	[ -z "$branch_at" ] || [ "$branch_at" = "$head" ] || set -- "$@" -p "$branch_at"
	m=$(git rev-parse -q --verify MERGE_HEAD) && set -- "$@" -p "$m"
	c=$(git commit-tree "$@" -m "banger: before $keep" "$all") || exit 1
	git update-ref "refs/banger/before-$keep" "$c" '' || exit 1
	for s in $states; do
		[ ! -e "$d/$s" ] || { mkdir -p "$d/banger/before-$keep" && mv "$d/$s" "$d/banger/before-$keep/"; } || exit 1
	done
fi

[ "$readonly" = no ] || chmod -R u+w . || exit 1
ours read-tree -m -u "$all" "$tree" || exit 1
if [ -d "$d/banger/incoming/files" ]; then
	# Files that git here would write otherwise than they are where they come from. They count as unchanged: a filter that is not
	# here is stood in for by one that says what git keeps.
	cp -a "$d/banger/incoming/files/." . || exit 1
	n=$GIT_CONFIG_COUNT
	while read -r name; do
		export "GIT_CONFIG_KEY_$n=filter.$name.clean" "GIT_CONFIG_VALUE_$n=git cat-file blob :%f"
		n=$((n + 1))
	done <"$d/banger/incoming/drivers"
	was_count=$GIT_CONFIG_COUNT GIT_CONFIG_COUNT=$n
	ours update-index -z --index-info <"$d/banger/incoming/entries" || exit 1 # forgets their sizes
	ours update-index -q --refresh >/dev/null || : # some are changed for other reasons
	GIT_CONFIG_COUNT=$was_count
fi
[ "$tree" = "$staged" ] || ours read-tree -m "$staged" || exit 1
if [ "$shallow" = replace ]; then
	sort -u "$d/banger/incoming/shallow" >"$t/shallow"
else
	cat "$d/shallow" "$d/banger/incoming/shallow" 2>/dev/null | sort -u >"$t/shallow"
fi
if [ -s "$t/shallow" ]; then mv "$t/shallow" "$d/shallow"; else rm -f "$d/shallow"; fi || exit 1
mv "$t/index" "$d/index" || exit 1
if [ -n "$branch" ]; then
	if [ -n "$commit" ]; then
		git update-ref --create-reflog -m 'banger: prepare' "refs/heads/$branch" "$commit" "$branch_at" || exit 1
	elif [ -n "$branch_at" ]; then
		git update-ref -d "refs/heads/$branch" "$branch_at" || exit 1
	fi
	git symbolic-ref -m 'banger: prepare' HEAD "refs/heads/$branch" || exit 1
else
	git update-ref --no-deref -m 'banger: prepare' HEAD "$commit" || exit 1
fi
# Further branches and tags move where nothing is lost.
while read -r oid ref; do
	was=$(git rev-parse -q --verify "$ref")
	if [ -z "$was" ] || { [ "$was" != "$oid" ] && git merge-base --is-ancestor "$was" "$oid" 2>/dev/null; }; then
		git update-ref "$ref" "$oid" "$was" || exit 1
	elif [ "$was" != "$oid" ]; then
		echo "left $ref"
	fi
done <"$d/banger/incoming/refs"
git update-ref refs/banger/prepared "$tree" && git update-ref refs/banger/prepared-index "$staged" || exit 1
if [ -n "$commit" ]; then git update-ref refs/banger/prepared-head "$commit"; else git update-ref -d refs/banger/prepared-head; fi || exit 1
mv "$d/banger/incoming/prepared" "$d/banger/prepared" && rm -rf "$d/banger/incoming" || exit 1
[ "$readonly" = no ] || find . -path ./.git -prune -o ! -type l -exec chmod a-w {} + || exit 1
