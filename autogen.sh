#!/bin/sh
# Makes ./configure from configure.ac and Makefile.am. Needed after a checkout, not in a release.
set -eu
cd "$(dirname "$0")"

missing=
command -v autoreconf >/dev/null 2>&1 || missing="$missing autoconf"
command -v aclocal >/dev/null 2>&1 || missing="$missing automake"
command -v pkg-config >/dev/null 2>&1 || missing="$missing pkg-config"
if [ -n "$missing" ]; then
	echo "autogen.sh: these Debian packages are missing:$missing" >&2
	echo "autogen.sh: install them with: apt-get install$missing" >&2
	exit 1
fi
mkdir -p build-aux m4
autoreconf --install --force
echo "autogen.sh: done; next: ./configure && make"
