set -u
export LC_ALL=C GIT_TERMINAL_PROMPT=0 GIT_CONFIG_COUNT=4 \
	GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_CONFIG_KEY_1=core.hooksPath GIT_CONFIG_VALUE_1=/dev/null \
	GIT_CONFIG_KEY_2=gc.auto GIT_CONFIG_VALUE_2=0 GIT_CONFIG_KEY_3=core.safecrlf GIT_CONFIG_VALUE_3=false
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
# Exit codes, as in guest.go.
no_git=70 differs=71 busy=72 no_base=73 no_repo=74

# at PATH sets at, and d, its repository.
at() {
	case $1 in
	/*) at=$1 ;;
	*) at=$HOME/$1 ;;
	esac
	d=$at/.git
}

# scratch makes a directory beside the repository that goes away at the end.
scratch() {
	t=$d/banger/tmp.$$
	mkdir -p "$t/objects" || exit 1
	trap 'rm -rf "$t"' EXIT
}

# ours runs git on the index in the scratch directory.
ours() { GIT_INDEX_FILE=$t/index git "$@"; }

# trees sets i and w: the trees of what is staged, and of all that is there and not ignored.
trees() {
	if [ -e "$d/index" ]; then cp "$d/index" "$t/index" || exit 1; fi
	i=$(ours write-tree 2>/dev/null) || i=conflict
	ours add -A || exit 1
	w=$(ours write-tree) || exit 1
}

# aside keeps new objects out of the repository.
aside() {
	o=$d/objects
	[ -d "$o" ] || o=$(git rev-parse --path-format=absolute --git-path objects) || exit 1 # a linked work tree
	export GIT_OBJECT_DIRECTORY="$t/objects" GIT_ALTERNATE_OBJECT_DIRECTORIES="\"$o\""
}

# states are the files and directories of a merge or the like that is under way.
states='MERGE_HEAD MERGE_MODE MERGE_MSG CHERRY_PICK_HEAD REVERT_HEAD REBASE_HEAD BISECT_LOG rebase-merge rebase-apply sequencer'
