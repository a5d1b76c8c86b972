# remove PATH: the names on stdin, each ended by NUL, go.
cd "$1" && xargs -0 rm -rf --
