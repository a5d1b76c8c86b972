# place NEW PATH: the new repository is put in its place, where nothing may be but an empty directory.
if [ -e "$2" ] || [ -L "$2" ]; then
	rmdir "$2" || { rm -rf "$1"; exit $differs; }
fi
mv "$1" "$2" || { rm -rf "$1"; exit 1; }
