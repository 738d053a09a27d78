#!/bin/bash
# `make bench`: the figures of docs/performance.md, with the built-in network and with the host's.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/stage.sh

step_inside "$@"
make_places
start_registry
BENCH_IMAGE=127.0.0.1:$port/bench/busybox:1
export BENCH_IMAGE
e2e/image.sh "127.0.0.1:$port" bench/busybox 1 >/dev/null
profile=${BENCH_PROFILE:-bench} # dev is enough to see that it works
cargo bench --quiet --profile "$profile" --bench node --no-run
for BENCH_NETWORK in bridge host; do
    start_agent
    export BENCH_NETWORK BENCH_AGENT=$agent
    row bench "$BENCH_NETWORK network"
    cargo bench --quiet --profile "$profile" --bench node
    stop_agent
done
