# shellcheck shell=sh
# Shell functions that the recipes in images/ share. Sourced, not run.
#
# Everything made lies in one cache outside the tree, in folders named by version, so that a second run starts at
# once. A thing is built beside its place and moved there when it is whole: an interrupted recipe leaves nothing
# that a later run would take for finished.

set -eu
# Tools of the administrator's path (depmod, mke2fs) serve users too.
PATH=$PATH:/usr/sbin:/sbin
cache=${MICROVM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/microvm}
images=$(cd "$(dirname "$0")" && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# The CPU whose guests are meant: this host's, or that of $MICROVM_ARCH, which the nested rig emulates. `debian` is
# Debian's name of it; `foreign` is set when this host cannot run its programs.
arch=${MICROVM_ARCH:-$(uname -m)}
case $arch in
x86_64) debian=amd64 ;;
aarch64) debian=arm64 ;;
*) die "MICROVM_ARCH=$arch: there are recipes for x86_64 and aarch64" ;;
esac
foreign=
[ "$arch" = "$(uname -m)" ] || foreign=1

# The text of each *.sources stanza or sources.list line that serves Debian's main archive for bookworm, as
# "URI|Signed-By". The machine's own mirror is the one that its owner wants used.
debian_sources() {
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk '
		$1 != "deb" { next }
		{
			options = ""; i = 2
			if ($2 ~ /^\[/) {
				while (i <= NF && $i !~ /\]$/) { options = options " " $i; i++ }
				options = options " " $i; i++
			}
			if ($(i + 1) != "bookworm") next
			key = ""
			if (match(options, /signed-by=[^] ]+/)) key = substr(options, RSTART + 10, RLENGTH - 10)
			print $i "|" key
		}'
	for file in /etc/apt/sources.list.d/*.sources; do
		[ -r "$file" ] || continue
		awk '
			function flush() {
				if (suites ~ /(^| )bookworm( |$)/ && types ~ /(^| )deb( |$)/ && enabled != "no")
					print uri "|" key
				suites = types = uri = key = enabled = ""
			}
			/^[ \t]*$/ { flush(); next }
			/^#/ { next }
			tolower($1) == "types:" { $1 = ""; types = $0 }
			tolower($1) == "uris:" { uri = $2 }
			tolower($1) == "suites:" { $1 = ""; suites = $0 }
			tolower($1) == "signed-by:" { key = $2 }
			tolower($1) == "enabled:" { enabled = tolower($2) }
			END { flush() }' "$file"
	done
}

# A line of sources.list for bookworm itself, from there.
bookworm_line() {
	source=$(debian_sources | head -n 1)
	[ -n "$source" ] || die "no apt source for bookworm; add one under /etc/apt/sources.list.d"
	signed=
	[ -z "${source#*|}" ] || signed="[signed-by=${source#*|}] "
	echo "deb ${signed}${source%%|*} bookworm main"
}

# Lines of a deb822 source for bookworm-backports on the machine's own mirror.
backports_source() {
	source=$(debian_sources | head -n 1)
	[ -n "$source" ] || die "no apt source for bookworm; add one under /etc/apt/sources.list.d"
	key=${source#*|}
	# A key may be written out in the stanza, where awk sees nothing: the archive's own keyring holds the same one.
	[ -n "$key" ] || key=/usr/share/keyrings/debian-archive-keyring.gpg
	printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: %s\n' \
		"${source%%|*}" "$key"
}

backports_known() {
	apt-cache policy 2>/dev/null | grep -q 'n=bookworm-backports\|/bookworm-backports\|a=.*bookworm-backports'
}

# apt for reading: the machine's package lists when they are there, else lists of our own in the cache, which needs no
# right to write under /var; always those for another CPU. Usage: apt_setup; $apt_cache show ...; $apt_get download ...
apt_cache=apt-cache
apt_get=apt-get
apt_setup() {
	if [ -z "$foreign" ] && backports_known && [ -n "$(apt-cache show linux-image-$debian 2>/dev/null)" ]; then
		return
	fi
	dir=$cache/apt${foreign:+-$debian}
	mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/etc"
	rm -rf "$dir/etc/sources.list.d"
	mkdir "$dir/etc/sources.list.d"
	options="-o Dir::State::lists=$dir/lists -o Dir::Cache=$dir -o Dir::Etc::sourcelist=$dir/etc/sources.list"
	options="$options -o Dir::Etc::sourceparts=$dir/etc/sources.list.d -o APT::Sandbox::User="
	if [ -n "$foreign" ]; then
		# Other archives of this machine may not know that CPU.
		options="$options -o APT::Architecture=$debian -o APT::Architectures=$debian -o Dir::State::status=/dev/null"
		bookworm_line >"$dir/etc/sources.list"
	else
		cp /etc/apt/sources.list "$dir/etc/" 2>/dev/null || : >"$dir/etc/sources.list"
		cp /etc/apt/sources.list.d/* "$dir/etc/sources.list.d/" 2>/dev/null || true
	fi
	grep -qs bookworm-backports "$dir"/etc/sources.list "$dir"/etc/sources.list.d/* ||
		backports_source >"$dir/etc/sources.list.d/microvm-backports.sources"
	apt_cache="apt-cache $options"
	apt_get="apt-get $options"
	say "fetching package lists into $dir"
	$apt_get update -qq >&2
}

# The module files that `names` need in kernel folder $1, in load order, each once. Built-in ones give no line.
module_files() {
	kernel=$1
	release=$(cat "$kernel/release")
	shift
	for name in "$@"; do
		modprobe -d "$kernel" -S "$release" --show-depends "$name" 2>/dev/null || true
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# Copy a module file to folder $2 as a plain .ko: no decompressor is needed in the guest.
module_copy() {
	name=$(basename "$1")
	case $name in
	*.xz) xz -dc "$1" >"$2/${name%.xz}" ;;
	*.zst) zstd -qdc "$1" >"$2/${name%.zst}" ;;
	*) cp "$1" "$2/" ;;
	esac
}
