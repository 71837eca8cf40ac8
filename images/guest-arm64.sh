#!/bin/sh
# What the rig of an aarch64 host boots: guest-arm64.sh; prints a folder in the cache that holds
#
#   Image       Debian's arm64 kernel 6.12, as it is shipped; the rig's host and the guests run it
#   guest.cpio  the guests' initramfs: busybox and the modules that a guest needs; init-arm64 is its /init
#   host        the root of the rig's host, without what changes: busybox, libraries for microvm
#
# images/deps-arm64.sh has installed or unpacked what it takes.
. "$(dirname "$0")/lib.sh"

foreign=$cache/arm64
libraries="libc.so.6 libm.so.6 libseccomp.so.2 libfdt.so.1 libz.so.1 libzstd.so.1 liblz4.so.1 liblzma.so.5"
modules="failover net_failover virtio_net virtio_blk virtio_mmio evdev gpio_keys"
[ -x "$foreign/bin/busybox" ] || die "no busybox for arm64; run images/deps-arm64.sh"

key=$( (cat "$0" "$images/init-arm64"; sha256sum <"$foreign/bin/busybox") | sha256sum | cut -c 1-12)
out=$cache/rig-arm64/$key
if [ -s "$out/guest.cpio" ]; then
	echo "$out"
	exit
fi
package=$(apt-cache show linux-image-arm64:arm64 | sed -n 's/^Depends: \(linux-image-6\.12\.[^ ,:]*\).*/\1/p' | head -n 1)
[ -n "$package" ] || die "no linux-image-arm64 6.12 in the package lists; is bookworm-backports enabled for arm64?"

mkdir -p "$cache/rig-arm64"
work=$(mktemp -d "$cache/rig-arm64/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "fetching $package"
(cd "$work" && apt-get -qq -o APT::Sandbox::User= download "$package:arm64" >&2)
mkdir "$work/kernel" "$work/out"
dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -x -C "$work/kernel" --no-same-owner --wildcards \
	'./boot/vmlinuz-*' '*/net/core/failover.ko*' '*/drivers/net/net_failover.ko*' '*/drivers/net/virtio_net.ko*' \
	'*/drivers/block/virtio_blk.ko*' '*/drivers/virtio/virtio_mmio.ko*' '*/drivers/input/evdev.ko*' \
	'*/drivers/input/keyboard/gpio_keys.ko*'
mv "$work"/kernel/boot/vmlinuz-* "$work/out/Image"

root=$work/guest
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/modules"
cp "$foreign/bin/busybox" "$root/bin/"
cp "$images/init-arm64" "$root/init"
chmod 755 "$root/init" "$root/bin/busybox"
for module in $modules; do
	file=$(find "$work/kernel" -name "$module.ko*" | head -n 1)
	[ -n "$file" ] || die "$package has no module $module"
	module_copy "$file" "$root/modules"
	echo "$module.ko" >>"$root/modules/order"
done
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$work/out/guest.cpio"

host=$work/out/host
mkdir -p "$host/bin" "$host/dev" "$host/proc" "$host/sys" "$host/tmp" "$host/lib/aarch64-linux-gnu"
cp "$foreign/bin/busybox" "$host/bin/"
cp -L /lib/ld-linux-aarch64.so.1 "$host/lib/"
for library in $libraries; do
	cp -L "/usr/lib/aarch64-linux-gnu/$library" "$host/lib/aarch64-linux-gnu/" 2>/dev/null ||
		cp -L "/lib/aarch64-linux-gnu/$library" "$host/lib/aarch64-linux-gnu/"
done
mv "$work/out" "$out"
echo "$out"
