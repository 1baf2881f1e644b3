# shellcheck shell=bash disable=SC2034
# Shell functions shared by the scripts here. Sourced, not run. Needs bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What the program needs to be built: a package, or COMMAND=PACKAGE when any package with that command will do.
build_needs="gcc=gcc libc6-dev make=make autoconf=autoconf aclocal=automake pkg-config=pkg-config
	libssl-dev libevent-dev libcrypt-dev libc-ares-dev libyaml-dev libnghttp2-dev openssl=openssl"
# What the tests need besides.
test_needs="libcriterion-dev libsystemd-dev python3 python3-pytest python3-hpack curl=curl git=git
	htpasswd=apache2-utils ps=procps ss=iproute2 man=man-db python3-cryptography python3-requests strace=strace
	logrotate jq=jq"
# What continuous integration needs besides: a second compiler, and clients that are large or bring services with them.
ci_needs="clang=clang xz=xz-utils go=golang-go node=nodejs npm=npm python3-pip proxytunnel=proxytunnel
	ssh=openssh-client openssh-server fail2ban systemd-analyze=systemd"
# What scripts/analyze needs besides.
analyze_needs="clang-tidy=clang-tidy cppcheck=cppcheck shellcheck=shellcheck pyflakes3=pyflakes3"
# What scripts/test-browsers needs besides.
browser_needs="firefox-esr=firefox-esr chromium=chromium certutil=libnss3-tools node=nodejs npm=npm fonts-dejavu-core"

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

section() { printf '\n=== %s (%s)\n' "$*" "$(date -u +%H:%M:%S)"; }

jobs_count() { nproc 2>/dev/null || echo 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo -- "$@"
	else
		die "this needs root, and sudo is not there. As root, run: $*"
	fi
}

# Without dpkg nothing can be said: configure will tell what is missing.
package_is_there() {
	command -v dpkg-query >/dev/null 2>&1 || return 0
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages WHAT NEED...: installs what is missing, and touches nothing when all is there.
need_packages() {
	local what=$1 need missing=
	shift
	for need in "$@"; do
		case $need in
		*=*) command -v "${need%%=*}" >/dev/null 2>&1 || missing="$missing ${need#*=}" ;;
		*) package_is_there "$need" || missing="$missing $need" ;;
		esac
	done
	if [ -z "$missing" ]; then
		say "$what: every package is there"
		return 0
	fi
	command -v apt-get >/dev/null 2>&1 || die "$what: please install (Debian's names):$missing"
	say "$what: installing with apt-get:$missing"
	# shellcheck disable=SC2086
	apt_install $missing || die "$what: apt-get could not install:$missing"
}

# Index files are fetched only when there are none, or when they turn out to be too old.
apt_install() {
	local lists
	lists=$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -print -quit 2>/dev/null || true)
	[ -n "$lists" ] || apt_update
	apt_get install -y --no-install-recommends "$@" && return 0
	say "trying again with fresh package lists"
	apt_update
	apt_get install -y --no-install-recommends "$@"
}
apt_update() { apt_get update; }
apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null; }

# configure_in FOLDER ARGUMENT...: out of the source tree; again only when the arguments or the scripts have changed.
configure_in() {
	local dir=$1 want
	shift
	if [ ! -x "$root/configure" ] || [ "$root/configure.ac" -nt "$root/configure" ] ||
		[ ! -f "$root/Makefile.in" ] || [ "$root/Makefile.am" -nt "$root/Makefile.in" ]; then
		if [ -w "$root" ] && [ -f "$root/autogen.sh" ]; then "$root/autogen.sh"; fi
	fi
	# configure refuses to work outside when the source folder itself was configured
	if [ -f "$root/config.status" ]; then
		say "the source folder itself is configured; cleaning that away (make distclean)"
		make -C "$root" distclean >/dev/null
	fi
	want="CC=${CC:-} $*"
	mkdir -p "$dir"
	if [ ! -f "$dir/Makefile" ] || [ "$(cat "$dir/.configured" 2>/dev/null)" != "$want" ] ||
		[ "$root/configure" -nt "$dir/config.status" ]; then
		(cd "$dir" && rm -f .configured && "$root/configure" -q "$@")
		printf '%s\n' "$want" >"$dir/.configured"
	fi
}
