#!/bin/sh
# Make a Debian 12 root disk: rootdisk.sh; prints the path of a raw ext4 image of 1 GiB (sparse, about 300 MiB used).
#
# systemd, a login prompt on the serial console (root, no password), eth0 by DHCP, modules of the kernels that
# kernel.sh fetches. Nothing here needs root rights or a loop mount: mmdebstrap works in a user namespace, and mke2fs
# copies the tree into the image.
. "$(dirname "$0")/lib.sh"

kernels="6.12 6.1"
folders=
for series in $kernels; do
	folders="$folders $("$images/kernel.sh" "$series")"
done
# shellcheck disable=SC2086
releases=$(for folder in $folders; do cat "$folder/release"; done)
key=$( (cat "$0" "$images/lib.sh" "$images/modules"; echo "$releases") | sha256sum | cut -c 1-12)
disk=$cache/debian/$key/debian.raw
if [ -s "$disk" ]; then
	echo "$disk"
	exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# In a user namespace the hook below is another user than the one who asked.
chmod 755 "$work"
truncate -s 1G "$work/debian.raw"
chmod 666 "$work/debian.raw"

# The files of this disk that no package brings.
tree=$work/tree
mkdir -p "$tree/etc/systemd/network" "$tree/etc/systemd/journald.conf.d" "$tree/etc/systemd/system.conf.d"
echo debian >"$tree/etc/hostname"
printf '127.0.0.1 localhost debian\n::1 localhost\n' >"$tree/etc/hosts"
echo '/dev/vda / ext4 rw,noatime,discard,errors=remount-ro 0 0' >"$tree/etc/fstab"
printf '[Match]\nName=eth*\n\n[Network]\nDHCP=yes\n' >"$tree/etc/systemd/network/80-eth.network"
# Interfaces keep the kernel's names: eth0 on every transport.
ln -s /dev/null "$tree/etc/systemd/network/99-default.link"
# The serial console's log should read well.
echo 'set enable-bracketed-paste off' >"$tree/etc/inputrc"
printf '[Journal]\nStorage=volatile\n' >"$tree/etc/systemd/journald.conf.d/volatile.conf"
# Slow machines are welcome: a unit that takes long is not a unit that failed.
printf '[Manager]\nDefaultTimeoutStartSec=900\nDefaultDeviceTimeoutSec=900\n' \
	>"$tree/etc/systemd/system.conf.d/patience.conf"
for folder in $folders; do
	release=$(cat "$folder/release")
	mkdir -p "$tree/usr/lib/modules/$release/kernel"
	# shellcheck disable=SC2046
	for file in $(module_files "$folder" $(sed 's/#.*//' "$images/modules")); do
		module_copy "$file" "$tree/usr/lib/modules/$release/kernel"
	done
	cp "$folder/lib/modules/$release/modules.builtin" "$folder/lib/modules/$release/modules.builtin.modinfo" \
		"$folder/lib/modules/$release/modules.order" "$tree/usr/lib/modules/$release/"
	depmod -b "$tree/usr" "$release"
done
tar -C "$tree" -cf "$work/tree.tar" --owner=0 --group=0 .
chmod -R a+rX "$work"

cat >"$work/hook" <<'HOOK'
#!/bin/sh
set -eu
root=$1 work=$2
tar -C "$root" -xf "$work/tree.tar" --keep-directory-symlink --no-same-owner
chroot "$root" passwd -qd root
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved
# What only costs time at boot here.
chroot "$root" systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-pstore.service \
	systemd-tmpfiles-clean.timer systemd-update-utmp.service systemd-update-utmp-runlevel.service getty@tty1.service \
	systemd-hwdb-update.service systemd-journal-flush.service systemd-random-seed.service \
	dev-hugepages.mount dev-mqueue.mount sys-kernel-tracing.mount sys-kernel-debug.mount sys-kernel-config.mount \
	sys-fs-fuse-connections.mount modprobe@drm.service modprobe@efi_pstore.service modprobe@configfs.service \
	modprobe@fuse.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount >&2
rm -rf "$root"/usr/lib/udev/hwdb.d "$root"/usr/lib/udev/hwdb.bin "$root"/var/lib/apt/lists/* \
	"$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt
ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# A bind mount without what is mounted below: /proc and the like stay out of the image.
plain=$(mktemp -d)
mount --bind "$root" "$plain"
mke2fs -q -F -t ext4 -L debian -E lazy_itable_init=0,lazy_journal_init=0 -d "$plain" "$work/debian.raw" >&2
umount "$plain"
rmdir "$plain"
HOOK
chmod 755 "$work/hook"

# apt must not look for what apt_setup may have to fetch: mmdebstrap keeps lists of its own.
line=$(bookworm_line)
say "making a Debian disk (a minute or two)"
mmdebstrap --quiet --variant=minbase --architectures="$debian" \
	--include=systemd-sysv,systemd-resolved,dbus,udev,iproute2,iputils-ping,wget,login,kmod,libpam-systemd \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
	--dpkgopt='path-exclude=/usr/share/info/*' --aptopt='APT::Install-Recommends "false"' \
	--customize-hook="$work/hook \"\$1\" $work" \
	bookworm /dev/null "$line" >&2
e2fsck -fn "$work/debian.raw" >/dev/null 2>&1 || die "the image does not pass e2fsck"

mkdir -p "$cache/debian/$key"
cp --sparse=always "$work/debian.raw" "$disk.new"
chmod 644 "$disk.new"
mv "$disk.new" "$disk"
echo "$disk"
