#!/bin/sh
# Runs each fuzzer for some seconds (60, or the first argument), or only those named after it.
# Needs a nightly toolchain with the static target of prepare.sh (`rustup target add --toolchain nightly
# x86_64-unknown-linux-musl`), cargo-fuzz (`cargo install cargo-fuzz`) and Debian's libseccomp-dev.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- plan seccomp libseccomp frames names manifest
for target; do
    echo "--- $target"
    # What it learns is kept in fuzz/corpus, and what fails in fuzz/artifacts; neither belongs into the repository.
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -max_len=2048 -rss_limit_mb=2048 -print_final_stats=1
done
