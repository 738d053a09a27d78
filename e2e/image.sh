#!/bin/bash
# image.sh HOST:PORT NAME TAG: makes a small web image of Debian's busybox-static and pushes it to a registry over
# plain HTTP. Only a shell, tar, gzip, sha256sum and curl: one can see what an image is.
#
# The layer has the same bytes on every machine with the same busybox: names in order, one owner, one time.
set -euo pipefail

registry=$1 name=$2 tag=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# -- the layer: a root filesystem
root=$work/root
mkdir -p "$root"/{bin,etc,tmp,www/cgi-bin}
cp /bin/busybox "$root/bin/busybox"
for applet in sh ls cat cp echo id date sleep true hostname httpd wget ps ip; do
    ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\nwww:x:1000:1000::/www:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nwww:x:1000:\n' >"$root/etc/group"
printf 'ahoy from the lowest deck\n' >"$root/www/index.html"
chmod 1777 "$root/tmp"
tar --create --format=posix --pax-option=delete=atime,delete=ctime --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime=@0 -C "$root" -f "$work/layer.tar" .
gzip --no-name -6 <"$work/layer.tar" >"$work/layer.tar.gz"

# -- the documents: a config that tells how to run it, a manifest that holds all together
sha() { sha256sum "$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
printf '{"architecture":"%s","os":"linux","config":{"User":"1000","Env":["PATH=/bin"],"Cmd":["httpd","-f","-p","8080","-h","/www"],"WorkingDir":"/www"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "$(sha "$work/layer.tar")" >"$work/config.json"
descriptor() { printf '{"mediaType":"%s","digest":"sha256:%s","size":%s}' "$1" "$(sha "$2")" "$(size "$2")"; }
type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
    "$type.manifest.v1+json" \
    "$(descriptor "$type.config.v1+json" "$work/config.json")" \
    "$(descriptor "$type.layer.v1.tar+gzip" "$work/layer.tar.gz")" >"$work/manifest.json"

# -- the push: each blob is uploaded in two requests, then the manifest by its tag
curl() { command curl --silent --show-error --fail --noproxy '*' "$@"; }
for blob in "$work/layer.tar.gz" "$work/config.json"; do
    place=$(curl --dump-header - --request POST "http://$registry/v2/$name/blobs/uploads/" |
        tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    case $place in http*) ;; *) place="http://$registry$place" ;; esac
    case $place in *\?*) place="$place&" ;; *) place="$place?" ;; esac
    curl --output /dev/null --request PUT --header 'Content-Type: application/octet-stream' \
        --data-binary "@$blob" "${place}digest=sha256:$(sha "$blob")"
done
curl --output /dev/null --request PUT --header "Content-Type: $type.manifest.v1+json" \
    --data-binary "@$work/manifest.json" "http://$registry/v2/$name/manifests/$tag"
echo "$registry/$name:$tag@sha256:$(sha "$work/manifest.json")"
