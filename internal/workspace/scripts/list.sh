# list PATH: the directory is made, its path said, and then mode, size, time and name of all that is in it.
at "$1"
if ! command -v find >/dev/null || ! command -v stat >/dev/null; then
	echo 'the image has no find and stat' >&2
	exit 1
fi
mkdir -p "$at" && cd "$at" || exit 1
echo "$at"
find . ! -name . -exec stat -c '%f %s %Y %n' {} + || : # something has gone meanwhile
