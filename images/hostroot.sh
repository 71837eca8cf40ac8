#!/bin/sh
# Make a root of Debian 12 for another CPU than this one (MICROVM_ARCH): hostroot.sh; prints the folder, to which
# hostroot/DEBIAN'S-NAME-OF-THE-CPU in the cache leads too.
#
# The rig's host has it as its root, and unit tests take their libraries from it. Packages are unpacked with all that they
# depend on and not installed: nothing of that CPU has to run here.
. "$(dirname "$0")/lib.sh"

# The shell and what scripts call; passt; what tests are written in; the libraries of microvm and of the unit tests.
packages="dash bash coreutils diffutils findutils grep gzip mawk sed procps util-linux mount iproute2 kmod libc-bin
	busybox-static python3 strace passt ethtool libc6 libseccomp2 libfdt1 zlib1g libzstd1 liblz4-1 liblzma5
	libcriterion3"
key=$( (cat "$0"; bookworm_line) | sha256sum | cut -c 1-12)
root=$cache/hostroot/$debian-$key
if [ -d "$root" ]; then
	ln -sfn "${root##*/}" "$cache/hostroot/$debian"
	echo "$root"
	exit
fi

mkdir -p "$cache/hostroot"
work=$(mktemp -d "$cache/hostroot/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "unpacking a root of Debian 12 for $arch"
# shellcheck disable=SC2086
mmdebstrap --quiet --variant=extract --architectures="$debian" --format=tar \
	--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$(echo $packages | tr ' ' ,)" \
	bookworm "$work/tar" "$(bookworm_line)" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "mmdebstrap failed"; }
mkdir "$work/root"
tar -x -C "$work/root" -f "$work/tar" --no-same-owner --exclude='./dev/*' --exclude='./usr/share/doc' \
	--exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./usr/share/info' --exclude='./var/lib/apt'
cd "$work/root"
# What the packages' scripts would have made.
ln -sf mawk usr/bin/awk
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' >etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group
echo '127.0.0.1 localhost' >etc/hosts
mkdir -p root proc sys run tmp out
# Without this index the dynamic linker would look for each library in many places, and system calls are counted.
"qemu-$arch" sbin/ldconfig -r "$PWD"
chmod -R u+rwX,a+rX .
mv "$work/root" "$root"
ln -sfn "${root##*/}" "$cache/hostroot/$debian"
echo "$root"
