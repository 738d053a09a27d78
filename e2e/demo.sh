#!/bin/bash
# `make demo`: a pod on this machine, in one screen.
#
# Builds a release, makes an image of Debian's busybox and serves it from Debian's docker-registry, starts the agent
# with its defaults (but for its places, and the built-in network), runs the two containers of manifests/demo-pod.yaml,
# talks to them, kills the agent under them and starts it again, and removes everything. What it makes is in directories
# of its own, and is gone at the end however that comes. Set VERBOSE=1 to see the agent's log as well.
set -euo pipefail
cd "$(dirname "$0")/.."

orlop=$PWD/target/release/orlop
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'; else bold='' dim='' red='' plain=''; fi

row() { printf '%s%-9s%s %s\n' "$bold" "$1" "$plain" "$2"; }
more() { sed "s/^/          /"; }
fail() {
    printf '%s%s%s\n' "$red" "demo: $*" "$plain" >&2
    [ ! -s "${agent_log:-}" ] || { echo "the end of the agent's log:" && tail -n 20 "$agent_log"; } >&2
    exit 1
}
now() { echo "${EPOCHREALTIME/[.,]/}"; } # microseconds
since() { # microseconds to "12 ms" or "2.3 s"
    local us=$(($(now) - $1))
    if [ "$us" -lt 1000000 ]; then echo "$((us / 1000)) ms"; else echo "$((us / 1000000)).$((us % 1000000 / 100000)) s"; fi
}
free_port() {
    local port
    for port in $(shuf -i 20000-30000 -n 100); do
        [ -n "$(ss -Htln "sport = :$port")" ] || { echo "$port" && return; }
    done
    return 1
}

[ "$(id -u)" = 0 ] || fail "run it as root: it makes namespaces, cgroups and a bridge"

# -- build, and then go on in a network namespace, so that this machine's own network is not touched
if [ -z "${ORLOP_DEMO_INSIDE:-}" ]; then
    e2e/prepare.sh
    begun=$(now)
    cargo build --release --quiet || fail "the build failed"
    size="$(($(stat -c %s "$orlop") / 1000000)) MB, the shim is in it"
    row build "target/release/orlop, $size  $dim$(since "$begun")$plain"
    ORLOP_DEMO_INSIDE=1 exec unshare --net e2e/demo.sh
fi
ip link set lo up

# -- places of its own
name=orlop-demo-$$
root=$(mktemp -d /var/tmp/$name.XXXX)
# An overlay cannot be the upper layer of another: in a container, the disk's place is taken by memory.
if [ "$(stat -f -c %T "$root")" = overlayfs ]; then rmdir "$root" && root=$(mktemp -d /dev/shm/$name.XXXX); fi
state=$(mktemp -d /run/$name.XXXX)
agent_log=$root/agent.log
agent='' registry='' pod=''
cgroups=/$name
export ORLOP_ENDPOINT=unix://$state/orlop.sock ORLOP_RUN_DIR=$root/run

start_agent() {
    "$orlop" serve --config "$root/config.toml" >>"$agent_log" 2>&1 &
    agent=$!
    until "$orlop" pods >/dev/null 2>&1; do
        kill -0 "$agent" 2>/dev/null || fail "the agent ended"
        sleep 0.01
    done
}

# What is still there of this run, a line each.
leftovers() {
    pgrep -f "$state" | sed 's/^/process /' || true
    grep -E "$root|$state" /proc/self/mountinfo | awk '{print "mount " $5}' || true
    find /sys/fs/cgroup -maxdepth 3 -type d -name "$name" -printf 'cgroup %p\n' 2>/dev/null || true
    ip -o link show type veth | awk '{print "interface " $2}'
}

clean_up() {
    code=$?
    trap - EXIT INT TERM
    set +e
    if [ -n "$pod" ]; then
        kill -0 "$agent" 2>/dev/null || (start_agent) >/dev/null 2>&1
        "$orlop" rm -f demo >/dev/null 2>&1
    fi
    [ -z "$agent" ] || { kill "$agent" && wait "$agent"; } 2>/dev/null
    [ -z "$registry" ] || { kill "$registry" && wait "$registry"; } 2>/dev/null
    for pid in $(pgrep -f "$state"); do kill -9 "$pid"; done
    awk -v a="$root" -v b="$state" 'index($5, a) == 1 || index($5, b) == 1 {print $5}' /proc/self/mountinfo |
        sort -r | while read -r mount; do umount -l "$mount"; done
    find /sys/fs/cgroup -maxdepth 3 -type d -name "$name" 2>/dev/null | while read -r group; do
        find "$group" -depth -type d -exec rmdir {} \;
    done
    rm -rf "$root" "$state"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# -- image
port=$(free_port)
mkdir "$root/registry"
printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s"}\n' \
    "$root/registry" "$port" >"$root/registry.yml"
docker-registry serve "$root/registry.yml" >"$root/registry.log" 2>&1 &
registry=$!
for _ in $(seq 100); do curl -fs --noproxy '*' -o /dev/null "http://127.0.0.1:$port/v2/" && break; sleep 0.05; done
row image "$(e2e/image.sh "127.0.0.1:$port" demo/web 1 | cut -c1-60)…  ${dim}docker-registry$plain"

# -- agent
cat >"$root/config.toml" <<END
[paths]
root = "$root/lib"
state = "$state"
socket = "$state/orlop.sock"
[runtime]
cgroup_parent = "$cgroups"
[network]
kind = "builtin"
[network.builtin]
subnet = "10.213.0.0/24"
[metrics]
address = ""
END
begun=$(now)
start_agent
row agent "orlop serve, pid $agent, ready in $(since "$begun")"

# -- pod
hostport=$(free_port)
sed "s/REGISTRY/127.0.0.1:$port/; s/18080/$hostport/" manifests/demo-pod.yaml >"$root/pod.yaml"
begun=$(now)
pod=$("$orlop" run -o json "$root/pod.yaml") || fail "the pod does not start"
row pod "orlop run manifests/demo-pod.yaml  ${dim}pull, sandbox and two containers in $(since "$begun")$plain"
"$orlop" pods | more
"$orlop" ps | more
ip=$("$orlop" pods | awk '$3 == "demo" {for (i = 1; i <= NF; i++) if ($i ~ /^10[.]/) print $i}')
page() { curl -fs --noproxy '*' --max-time 5 "$1" || fail "$1 does not answer"; }
for _ in $(seq 50); do curl -fs --noproxy '*' -o /dev/null "http://$ip:8080/" && break; sleep 0.02; done
row http "http://$ip:8080/ says: $(page "http://$ip:8080/")"
sleep 0.5
row logs "orlop logs --tail 2 demo/sidecar"
"$orlop" logs --tail 2 demo/sidecar | more
row exec "orlop exec demo/web -- sh -c 'id; hostname'"
"$orlop" exec demo/web -- sh -c 'id; hostname' | more
row stats "orlop stats"
"$orlop" stats | more

# -- death of the agent
before=$("$orlop" ps -o json)
kill -9 "$agent"
wait "$agent" 2>/dev/null || true
row 'kill -9' "of the agent; http://$ip:8080/ says: $(page "http://$ip:8080/")"
sleep 1
begun=$(now)
start_agent
row agent "again, pid $agent, ready in $(since "$begun")"
after=$("$orlop" ps -o json)
[ "$before" = "$after" ] || fail "the containers are not the same: $before / $after"
sleep 0.3
lines=$("$orlop" logs demo/sidecar | awk '$1 != NR || $2 != "ahoy" {print "gap at line " NR; exit 1} END {print NR}') ||
    fail "the sidecar's log has a $lines"
row '' "the same containers; the sidecar's log has lines 1 to $lines, none is missing"

# -- end
begun=$(now)
"$orlop" stop demo >/dev/null || fail "the pod does not stop"
"$orlop" rm demo >/dev/null || fail "the pod cannot be removed"
pod=''
row stop "orlop stop demo; orlop rm demo  $dim$(since "$begun")$plain"
kill "$agent"
wait "$agent" || fail "the agent did not end well"
agent=''
[ -z "${VERBOSE:-}" ] || cat "$agent_log"
left=$(leftovers)
[ -z "$left" ] || row 'left over' "$(echo "$left" | tr '\n' ';')"
row end "no process, mount, cgroup or interface of it is left"
