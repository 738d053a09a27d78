#!/bin/bash
# Installs what is missing of what building, testing and the demo need, on Debian 12. Does nothing, and asks for no
# root, where all of it is there.
set -euo pipefail

packages=(
    gcc libc6-dev make             # zstd and ring have C in them
    curl ca-certificates
    busybox-static                 # what test images and the demo's image are made of
    docker-registry                # a real registry
    containernetworking-plugins    # CNI plugins
    runc crun                      # external runtimes, as handlers
    iproute2 iptables nftables     # what the tests look at networks with
    openssl procps python3-venv
    containerd podman buildah conmon uidmap    # engines that run our runtime in the place of runc
    # The virtual machine with cgroup v2: its parts, and what runs in it.
    qemu-system-x86 e2fsprogs kmod
    apparmor dbus systemd
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "prepare: as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    # The registry's package starts a service; this machine's owner did not ask for one.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
fi

# The kernel of the virtual machine is unpacked, not installed.
if [ "$(id -u)" = 0 ] && [ "$(uname -m)" = x86_64 ]; then
    "$(dirname "$0")/vm/fetch.sh"
fi

if ! command -v cargo >/dev/null; then
    echo "prepare: there is no cargo; Orlop wants Rust 1.95 or newer, as rustup installs it" >&2
    exit 1
fi
# The shim that the agent carries inside it is a static program, of another target than the agent.
target="$(uname -m)-unknown-linux-musl"
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    rustup target add "$target"
fi
