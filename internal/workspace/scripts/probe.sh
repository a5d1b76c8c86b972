# probe PATH MAKE BRANCH: what is at PATH, and the directory above it made where MAKE is yes.
command -v git >/dev/null 2>&1 || exit $no_git
at "$1"
echo "path $at"
if [ ! -e "$at" ] && [ ! -L "$at" ]; then
	[ "$2" != yes ] || mkdir -p "${at%/*}/" || exit 1
	echo 'state absent'
	exit
fi
if [ -d "$at" ] && [ -z "$(ls -A "$at")" ]; then
	echo 'state empty'
	exit
fi
if [ ! -d "$d" ]; then
	echo 'state occupied'
	exit
fi
cd "$at" || exit 1
git rev-parse --git-dir >/dev/null || exit 1
echo 'state repo'
scratch
aside
trees
echo "index $i"
echo "work $w"
echo "head $(git rev-parse -q --verify HEAD)"
[ -z "$3" ] || echo "branch $(git rev-parse -q --verify "refs/heads/$3")"
for s in $states; do
	case $s in MERGE_MSG) continue ;; esac
	[ ! -e "$d/$s" ] || echo "state-file $s"
done
[ ! -f "$d/shallow" ] || sed 's/^/shallow /' "$d/shallow"
if [ -f "$d/banger/prepared" ]; then
	sed 's/^/was-/' "$d/banger/prepared"
	h=$(git rev-parse -q --verify refs/banger/prepared-head) && git log --format='commit %h %s' -n 50 "$h..HEAD" 2>/dev/null
	ours diff-index --cached --name-status --no-renames refs/banger/prepared -- | head -n 200 | sed 's/^/file /'
fi
exit 0
