#!/bin/bash
# make test-v2: builds the tests here, and runs those of the list e2e/vm/tests in guests with cgroup v2 alone.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here/../.."
mkdir -p target/vm
"$here/fetch.sh"

# "  Executable tests/pods.rs (target/debug/deps/pods-0123)": names and paths.
"${CARGO:-cargo}" test --no-run --lib --tests 2>&1 | tee target/vm/build.log | grep -v '^ *Executable' || true
sed -n -e 's|^ *Executable unittests src/lib.rs (\(.*\))$|lib \1|p' \
    -e 's|^ *Executable tests/\([^/]*\)\(/main\)\?\.rs (\(.*\))$|\1 \3|p' target/vm/build.log >target/vm/programs
if [ ! -s target/vm/programs ]; then
    echo 'test-v2: the tests cannot be built' >&2
    exit 1
fi

# The programs for one guest, with whole paths.
list() {
    local guest pattern arguments name path found
    grep "^$1 " "$here/tests" | while read -r guest pattern arguments; do
        found=''
        while read -r name path; do
            # A pattern for all guests does not mean those that need systemd.
            [[ "$1" = plain && "$name" == *_systemd ]] && continue
            # shellcheck disable=SC2053 # it is a pattern
            if [[ "$name" == $pattern ]]; then
                found=yes
                echo "$(realpath "$path") $arguments"
            fi
        done <target/vm/programs
        if [ -z "$found" ]; then
            echo "test-v2: no test program is called $pattern" >&2
            return 1
        fi
    done
}

run=0 failed=0 skipped=0
for guest in plain systemd hybrid; do
    grep -q "^$guest " "$here/tests" || continue
    list "$guest" >"target/vm/list.$guest"
    echo "== a guest: $guest"
    case "$guest" in
    plain) init='' arguments='' ;;
    systemd) init=systemd arguments='' ;;
    hybrid) init=systemd arguments='systemd.unified_cgroup_hierarchy=0' ;;
    esac
    code=0
    VM_INIT="$init" VM_ARGS="$arguments" "$here/run.sh" "$here/inside.sh $PWD/target/vm/list.$guest" 2>&1 | tee target/vm/log || code=$?
    counts="$(sed -n 's/^vm: \([0-9]*\) tests run, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' target/vm/log)"
    if [ -z "$counts" ]; then
        echo "test-v2: the guest ($guest) ended with $code before its tests did"
        failed=$((failed + 1))
        continue
    fi
    read -r a b c <<<"$counts"
    run=$((run + a)) failed=$((failed + b)) skipped=$((skipped + c))
done
echo "test-v2: $run tests run in a machine with cgroup v2, $failed failed, $skipped skipped (each named above), $SECONDS s"
[ "$failed" = 0 ]
