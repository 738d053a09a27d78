#!/bin/bash
# `make demo`: a pod on this machine, in one screen.
#
# Builds a release, makes an image of Debian's busybox and serves it from Debian's docker-registry, starts the agent
# with its defaults (but for its places, and the built-in network), runs the two containers of manifests/demo-pod.yaml,
# talks to them, kills the agent under them and starts it again, and removes everything. VERBOSE=1 shows the agent's log
# as well.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/stage.sh

step_inside "$@"
make_places

page() { curl -fs --noproxy '*' --max-time 5 "$1" || fail "$1 does not answer"; }

# -- image
start_registry
image=$(e2e/image.sh "127.0.0.1:$port" demo/web 1)
row image "${image:0:60}…  ${dim}from docker-registry$plain"

# -- agent
begun=$(now)
start_agent
row agent "orlop serve, pid $agent, answers after $(since "$begun")"

# -- pod
hostport=$(free_port)
sed "s/REGISTRY/127.0.0.1:$port/; s/18080/$hostport/" manifests/demo-pod.yaml >"$root/pod.yaml"
begun=$(now)
started=$("$orlop" run -o json "$root/pod.yaml") || fail "the pod does not start"
row pod "orlop run manifests/demo-pod.yaml  ${dim}pull, sandbox, two containers: $(since "$begun")$plain"
"$orlop" pods | more
"$orlop" ps | more
ip=$(sed -n 's/.*"ip": "\(.*\)".*/\1/p' <<<"$started")
for _ in $(seq 50); do
    curl -fs --noproxy '*' -o /dev/null "http://$ip:8080/" && break
    sleep 0.02
done
row http "http://$ip:8080/ says: $(page "http://$ip:8080/")"
sleep 0.5
row logs "orlop logs --tail 2 demo/sidecar"
"$orlop" logs --tail 2 demo/sidecar | more
row exec "orlop exec demo/web -- sh -c 'id; hostname'"
"$orlop" exec demo/web -- sh -c 'id; hostname' | tee "$root/exec" | more
[ "$(tail -n 1 "$root/exec")" = demo ] || fail "the pod's host name is not its own"
row stats "orlop stats"
"$orlop" stats | more
metrics=$(curl -fs --unix-socket "$state/http.sock" http://localhost/metrics) || fail "http.sock does not answer"
mean() { # of the calls of one rpc, in ms
    awk -v rpc="{rpc=\"$1\"}" '$1 ~ "_duration_seconds_(sum|count)" && index($1, rpc) {n[$1 ~ /_sum/] = $2}
        END {printf "%.1f ms", n[1] / n[0] * 1000}' <<<"$metrics"
}
row metrics "PullImage $(mean PullImage), RunPodSandbox $(mean RunPodSandbox), StartContainer $(mean StartContainer), ExecSync $(mean ExecSync)"

# -- death of the agent
before=$("$orlop" ps -o json)
{ kill -9 "$agent" && wait "$agent"; } 2>/dev/null || true
row 'kill -9' "of the agent; http://$ip:8080/ says: $(page "http://$ip:8080/")"
sleep 1
begun=$(now)
start_agent
row agent "again, pid $agent, answers after $(since "$begun")"
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
row stop "orlop stop demo; orlop rm demo  ${dim}with a grace period of 1 s: $(since "$begun")$plain"
stop_agent
[ -z "${VERBOSE:-}" ] || cat "$agent_log"
# The kernel takes a moment for the namespaces of the agent's pool, each with its interface.
for _ in $(seq 100); do
    left=$(leftovers)
    [ -n "$left" ] || break
    sleep 0.05
done
[ -z "$left" ] || fail "left over: ${left//$'\n'/; }"
row end "no process, mount, cgroup or interface of it is left"
