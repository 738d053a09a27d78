#!/bin/bash
# In the guest: runs the test programs of the list $1 (path and arguments, a line each) and ends with the count. What
# a test skips, it says in a line "skipped: why".
set -uo pipefail
run=0 failed=0 skipped=0

# The programs are started often, and the guest's own disk is faster than the host's files.
mkdir -p /scratch/bin
agent="$(dirname "$(dirname "$(head -1 "$1" | cut -d' ' -f1)")")/orlop"
cp "$agent" /scratch/orlop && mount --bind /scratch/orlop "$agent" || exit 1

while read -r program arguments; do
    name="$(basename "$program")"
    name="${name%-*}"
    log="/scratch/tmp/$name.log"
    start=$SECONDS
    cp "$program" "/scratch/bin/$name"
    # shellcheck disable=SC2086 # they are words
    timeout -k 5 400 "/scratch/bin/$name" --show-output $arguments >"$log" 2>&1 </dev/null
    code=$?
    rm "/scratch/bin/$name"
    read -r passed broken < <(
        sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$log" | tail -1
    )
    run=$((run + ${passed:-0} + ${broken:-0}))
    failed=$((failed + ${broken:-0}))
    notice=''
    if [ -z "${passed:-}" ] || { [ "$code" != 0 ] && [ "${broken:-0}" = 0 ]; }; then
        notice=", and the program ended with $code"
        failed=$((failed + 1))
    elif [ "$((passed + broken))" = 0 ]; then
        notice=': the list asks for tests that are not there'
        failed=$((failed + 1))
    fi
    printf '%-18s %3d passed, %d failed, %3d s%s\n' "$name" "${passed:-0}" "${broken:-0}" $((SECONDS - start)) "$notice"
    if [ "$code" != 0 ] || [ -n "$notice" ]; then
        sed 's/^/    /' "$log"
    fi
    # The lines before it say which test it is.
    awk '/^---- .* stdout ----$/ { test = $2 } /^skipped: / { print "    " test " " $0 }' "$log" | sort -u >"$log.skipped"
    cat "$log.skipped"
    skipped=$((skipped + $(wc -l <"$log.skipped")))
    unset passed broken
done <"$1"
echo "vm: $run tests run, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
