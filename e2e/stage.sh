# shellcheck shell=bash
# Sets a stage for demo.sh and bench.sh, which source it: a network namespace, directories of its own, a registry with
# an image in it, an agent. Whatever comes, all of it is removed at the end.
#
# The script that sources it is run again inside `unshare --net`, so that this machine's own network is not touched.

orlop=${ORLOP:-$PWD/target/release/orlop} # with ORLOP set nothing is built
agent='' agent_log='' registry=''

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'; else bold='' dim='' red='' plain=''; fi

row() { printf '%s%-9s%s %s\n' "$bold" "$1" "$plain" "$2"; }
more() { sed 's/^/          /'; }
fail() {
    printf '%s%s: %s%s\n' "$red" "${0##*/}" "$*" "$plain" >&2
    [ ! -s "$agent_log" ] || { echo "the end of the agent's log:" && tail -n 20 "$agent_log"; } >&2
    exit 1
}

now() { echo "${EPOCHREALTIME/[.,]/}"; } # microseconds
since() {                                # the time since such a moment, as "12 ms" or "2.3 s"
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

# Builds, and goes on in a network namespace.
step_inside() {
    [ "$(id -u)" = 0 ] || fail "run it as root: it makes namespaces and cgroups"
    if [ -z "${ORLOP_STAGE:-}" ]; then
        local begun
        e2e/prepare.sh
        begun=$(now)
        [ -n "${ORLOP:-}" ] || cargo build --release --quiet || fail "the build failed"
        row build "${orlop#"$PWD/"}, $(($(stat -c %s "$orlop") / 1000000)) MB, the shim is in it  $dim$(since "$begun")$plain"
        ORLOP_STAGE=1 exec unshare --net "$0" "$@"
    fi
    ip link set lo up
}

# Makes the directories; from here on there is something to remove.
make_places() {
    name=orlop-stage-$$
    root=$(mktemp -d "/var/tmp/$name.XXXX")
    # An overlay cannot be the upper layer of another: in a container, memory takes the disk's place.
    if [ "$(stat -f -c %T "$root")" = overlayfs ]; then rmdir "$root" && root=$(mktemp -d "/dev/shm/$name.XXXX"); fi
    state=$(mktemp -d "/run/$name.XXXX")
    agent_log=$root/agent.log
    export ORLOP_ENDPOINT=unix://$state/orlop.sock ORLOP_RUN_DIR=$root/run
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    cat >"$root/config.toml" <<END
[paths]
root = "$root/lib"
state = "$state"
socket = "$state/orlop.sock"
[runtime]
cgroup_parent = "/$name"
[network]
kind = "builtin"
[network.builtin]
subnet = "10.213.0.0/16"
[metrics]
address = ""
END
}

start_registry() {
    port=$(free_port)
    mkdir "$root/registry"
    cat >"$root/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $root/registry}}
http: {addr: "127.0.0.1:$port"}
END
    docker-registry serve "$root/registry.yml" >"$root/registry.log" 2>&1 &
    registry=$!
    for _ in $(seq 100); do
        curl -fs --noproxy '*' -o /dev/null "http://127.0.0.1:$port/v2/" && return
        sleep 0.05
    done
    fail "the registry does not answer: $(tail -n 3 "$root/registry.log")"
}

start_agent() {
    "$orlop" serve --config "$root/config.toml" >>"$agent_log" 2>&1 &
    agent=$!
    for _ in $(seq 2000); do
        "$orlop" pods >/dev/null 2>&1 && return
        kill -0 "$agent" 2>/dev/null || fail "the agent ended"
        sleep 0.01
    done
    fail "the agent does not answer"
}

stop_agent() {
    kill "$agent"
    wait "$agent" || fail "the agent did not end well"
    agent=''
}

# What is still there of this run, a line each.
leftovers() {
    for process in $(processes); do echo "process $process"; done
    grep -E "$root|$state" /proc/self/mountinfo | awk '{print "mount " $5}' || true
    find /sys/fs/cgroup -maxdepth 3 -path "*/$name/*" -type d -printf 'cgroup %p\n' 2>/dev/null || true
    ip -o link show type veth | awk '{print "interface " $2}'
}

# Shims are in this stage's network or in a pod's; their cgroups tell whose they are.
processes() {
    find /sys/fs/cgroup -maxdepth 6 -path "*/$name/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un
    pgrep -f "$state" || true
}

clean_up() {
    local code=$?
    trap - EXIT INT TERM
    set +e
    kill -0 "$agent" 2>/dev/null || [ ! -d "$root/lib/pods" ] || [ -z "$(ls -A "$root/lib/pods")" ] ||
        (start_agent) >/dev/null 2>&1
    "$orlop" pods -o json 2>/dev/null | sed -n 's/^ *"id": "\(.*\)",$/\1/p' | xargs -r "$orlop" rm -f >/dev/null 2>&1
    [ -z "$agent" ] || { kill "$agent" && wait "$agent"; } 2>/dev/null
    [ -z "$registry" ] || { kill "$registry" && wait "$registry"; } 2>/dev/null
    for pid in $(processes); do kill -9 "$pid"; done
    awk -v a="$root" -v b="$state" 'index($5, a) == 1 || index($5, b) == 1 {print $5}' /proc/self/mountinfo |
        sort -r | while read -r mount; do umount -l "$mount"; done
    find /sys/fs/cgroup -maxdepth 3 -type d -name "$name" 2>/dev/null | while read -r group; do
        find "$group" -depth -type d -exec rmdir {} \;
    done
    rm -rf "$root" "$state"
    exit "$code"
}
