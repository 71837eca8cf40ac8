#!/bin/sh
# Make an initramfs: initramfs.sh KIND SERIES [PROGRAM...]; prints the path of an uncompressed cpio archive.
#
# KIND is the name of a script init-KIND beside this one, which becomes /init; its `# modules:` and `# modules CPU:` lines
# name the kernel modules to take along; PROGRAMs of the host come with their libraries. They lie in /modules with the order to load them in /modules/order. Made without root: the
# kernel brings /dev/console itself, and device nodes come with devtmpfs.
. "$(dirname "$0")/lib.sh"

[ $# -ge 2 ] && [ -f "$images/init-$1" ] || die "usage: $0 test|boot|rig SERIES [PROGRAM...]"
kind=$1 series=$2
shift 2
kernel=$("$images/kernel.sh" "$series")
release=$(cat "$kernel/release")
busybox=$(command -v busybox) || die "busybox is missing; make deps installs it"
run='' host=''
if [ -n "$foreign" ]; then
	host=$("$images/hostroot.sh")
	busybox=$host/bin/busybox
	run=qemu-$arch
fi
key=$( (cat "$0" "$images/lib.sh" "$images/init-$kind"; sha256sum <"$busybox"; echo "$@") | sha256sum | cut -c 1-12)
cpio=$cache/initramfs/$kind-$release-$key.cpio
if [ -s "$cpio" ]; then
	echo "$cpio"
	exit
fi

mkdir -p "$cache/initramfs"
work=$(mktemp -d "$cache/initramfs/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/bin" "$root/modules" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/run" "$root/etc" \
	"$root/root" "$root/mnt"
cp "$busybox" "$root/bin/busybox"
$run "$root/bin/busybox" --list | while read -r applet; do
	[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
cp "$images/init-$kind" "$root/init"
chmod 755 "$root/init" "$root/bin/busybox"
for program in "$@"; do
	path=$(PATH=$host/usr/bin:$host/usr/sbin command -v "$program") || die "$program is missing; make deps installs it"
	cp "$path" "$root/bin/"
	# What ldd does, also for another CPU's program.
	linker=$(readelf -l "$path" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
	QEMU_LD_PREFIX=$host $run "$host$linker" --list "$path" | grep -o '/[^ ]*' | sed "s|^$host||" | while read -r library; do
		mkdir -p "$root${library%/*}"
		cp -L "$host$library" "$root$library"
	done
done
# shellcheck disable=SC2046
module_files "$kernel" $(sed -n "s/^# modules\( $arch\)*://p" "$images/init-$kind") | while read -r file; do
	module_copy "$file" "$root/modules"
	basename "$file" | sed 's/\.ko.*/.ko/' >>"$root/modules/order"
done
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$work/cpio"
mv "$work/cpio" "$cpio"
echo "$cpio"
