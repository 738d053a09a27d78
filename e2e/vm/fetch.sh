#!/bin/bash
# Gets what the guest boots: Debian's cloud kernel, unpacked and not installed, and an initial root file system with
# the few modules that bring up the real one. Both stay in target/vm. Needs kmod and busybox-static.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
dir="$(cd "$here/../.." && pwd)/target/vm"
mkdir -p "$dir"

if [ "$(uname -m)" != x86_64 ]; then
    echo "vm: the guest is an x86_64 one, and this machine is $(uname -m)" >&2
    exit 1
fi

release() {
    local image
    image="$(echo "$dir"/kernel/boot/vmlinuz-*)"
    [ -f "$image" ] && echo "${image##*/vmlinuz-}"
}

kernel() {
    local name package
    name() {
        apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1
    }
    name="$(name)"
    if [ -z "$name" ]; then
        apt-get -qq update
        name="$(name)"
    fi
    if [ -z "$name" ]; then
        echo 'vm: apt knows no package linux-image-cloud-amd64: Debian 12 has it' >&2
        exit 1
    fi
    rm -rf "$dir/kernel.new" "$dir/package"
    mkdir -p "$dir/package"
    # A list of packages that is a few weeks old names one that is gone from the mirror.
    (cd "$dir/package" && { apt-get -qq download "$name" 2>/dev/null || { apt-get -qq update && apt-get -qq download "$name"; }; })
    package="$(echo "$dir"/package/*.deb)"
    dpkg -x "$package" "$dir/kernel.new"
    rm -rf "$dir/package" "$dir/kernel"
    mv "$dir/kernel.new" "$dir/kernel"
}

initrd() {
    local release="$1" root
    root="$(mktemp -d)"
    mkdir -p "$root"/{bin,modules,proc,dev}
    cp /bin/busybox "$root/bin/"
    cp "$here/init" "$root/init"
    chmod 755 "$root/init"
    [ -f "$dir/kernel/lib/modules/$release/modules.dep" ] || depmod -b "$dir/kernel" "$release"
    modprobe -d "$dir/kernel" -S "$release" --show-depends -a virtio_pci virtiofs virtio_blk overlay virtio_rng 2>/dev/null |
        awk '/^insmod/ && !seen[$2]++ { print $2 }' |
        while read -r module; do
            cp "$module" "$root/modules/"
            basename "$module" >>"$root/modules/order"
        done
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$dir/initrd.new"
    rm -rf "$root"
    mv "$dir/initrd.new" "$dir/initrd"
}

[ -n "$(release)" ] || kernel
if [ ! -f "$dir/initrd" ] || [ "$here/init" -nt "$dir/initrd" ] || [ "$dir/kernel" -nt "$dir/initrd" ]; then
    initrd "$(release)"
fi
