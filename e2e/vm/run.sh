#!/bin/bash
# run.sh COMMAND…: runs a shell command as root in a virtual machine whose only cgroup hierarchy is version 2, on
# Debian's kernel. The machine sees the host's files and keeps its changes to itself, in memory; /scratch there is an
# ext4 file system. The output is streamed, and the exit code is the command's; 125 says that the machine died.
# VM_INIT=systemd makes systemd process 1, with a bus. VM_MEMORY, VM_CPUS, VM_TIMEOUT (seconds), VM_ARGS (for the kernel),
# VM_ACCEL (kvm or tcg) say how.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
dir="$(cd "$here/../.." && pwd)/target/vm"
[ "$(id -u)" = 0 ] || { echo 'vm: only root can share all files of this machine with a guest' >&2; exit 1; }
for file in /usr/bin/qemu-system-x86_64 /usr/lib/qemu/virtiofsd /bin/busybox /usr/sbin/mke2fs; do
    [ -x "$file" ] || { echo "vm: there is no $file; e2e/prepare.sh installs it" >&2; exit 1; }
done
"$here/fetch.sh"
image="$(echo "$dir"/kernel/boot/vmlinuz-*)"
memory="${VM_MEMORY:-4G}"

# A device alone is no proof: where the processor's flags do not say so, the kernel offers what it cannot do.
accel="${VM_ACCEL:-}"
if [ -z "$accel" ]; then
    if [ -w /dev/kvm ] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then accel=kvm; else accel=tcg; fi
fi
# Of what emulated processors can do much costs time: "max" starts programs four times slower than this one. Its
# time stamp counter runs wild when it is trusted.
case "$accel" in
kvm) cpu=(-accel kvm -cpu host) clock='' ;;
*) cpu=(-accel tcg,thread=multi,tb-size=512 -cpu Nehalem) clock='no_timer_check tsc=unstable clocksource=hpet' ;;
esac

mkdir -p "$dir/runs"
run="$(mktemp -d "$dir/runs/XXXXXX")"
chmod 755 "$run"
printf '%s\n' "$*" >"$run/command"
: >"$run/out"
printf "VM_INIT='%s'\nVM_CWD='%s'\nVM_HERE='/host%s'\n" "${VM_INIT:-}" "$PWD" "$here" >"$run/env"
truncate -s 4G "$run/disk"
mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 "$run/disk"

/usr/lib/qemu/virtiofsd --socket-path="$run/files" -o source=/ -o cache=always -o sandbox=chroot \
    >"$run/virtiofsd.log" 2>&1 &
files=$!
tail -n +1 -f -s 0.1 "$run/out" &
tail=$!
trap 'kill $tail $files 2>/dev/null || true; [ -n "${VM_KEEP:-}" ] || rm -rf "$run"' EXIT
for _ in $(seq 100); do
    [ -S "$run/files" ] && break
    sleep 0.05
done

timeout -k 5 "${VM_TIMEOUT:-1200}" qemu-system-x86_64 -nodefaults -no-user-config -machine q35 "${cpu[@]}" \
    -smp "${VM_CPUS:-2}" -m "$memory" -object "memory-backend-memfd,id=memory,size=$memory,share=on" \
    -numa node,memdev=memory \
    -chardev socket,id=files,path="$run/files" -device vhost-user-fs-pci,queue-size=1024,chardev=files,tag=host \
    -drive if=none,id=disk,file="$run/disk",format=raw,cache=unsafe -device virtio-blk-pci,drive=disk \
    -device virtio-rng-pci -display none -serial "file:$run/console" -no-reboot \
    -kernel "$image" -initrd "$dir/initrd" -append "console=ttyS0 quiet panic=-1 mitigations=off $clock \
lsm=lockdown,capability,landlock,yama,apparmor,bpf apparmor=1 vm.run=$run vm.guest=$here/guest \
vm.modules=$dir/kernel/lib/modules/${image##*/vmlinuz-} ${VM_ARGS:-}" </dev/null >"$run/qemu.log" 2>&1 || true
sleep 0.2
if [ ! -f "$run/code" ]; then
    echo 'vm: the guest ended without a result; its console says:' >&2
    cat "$run/qemu.log" >&2
    tail -60 "$run/console" >&2 || true
    exit 125
fi
exit "$(cat "$run/code")"
