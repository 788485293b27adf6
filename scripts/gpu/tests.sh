#!/usr/bin/env bash
# Runs the tests of executables whose names contain FILTER, each in a process of its own: after a kernel has failed, its
# process can run no more.
#
#   scripts/gpu/tests.sh FILTER EXECUTABLE...     JOBS=4 at a time, LIMIT=30 seconds each, LOGS=DIR for what they print
#
# A line for each failure, the last one for all. `cargo test --no-run --test core --test rows` names the executables.
set -uo pipefail

filter=$1
shift
logs=${LOGS:-$(mktemp -d)}
mkdir -p "$logs"
export logs LIMIT=${LIMIT:-30}

one() {
    local log
    log=$logs/$(printf '%s' "$2" | tr -c 'A-Za-z0-9_' _ | cut -c1-100)-$(printf '%s' "$1$2" | cksum | cut -d' ' -f1).log
    timeout --foreground -k 5 "$LIMIT" "$1" --exact "$2" --test-threads 1 >"$log" 2>&1 && return 0
    printf 'FAIL %s: exit code %s\n%s\n' "$2" $? "$(grep -v '^\(running\|$\|note:\|failures:\)' "$log" | tail -n 4 | cut -c1-200)"
    return 1
}
export -f one

for executable in "$@"; do
    "$executable" --list 2>/dev/null | sed -n 's/: test$//p' | grep -F -- "$filter" |
        while IFS= read -r name; do printf '%s\0%s\0' "$executable" "$name"; done
done >"$logs/names"
count=$(($(tr -cd '\0' <"$logs/names" | wc -c) / 2))
# Also where time runs out.
sum() {
    local begun passed
    begun=$(find "$logs" -name '*.log' | wc -l)
    passed=$(find "$logs" -name '*.log' -exec grep -lm1 'test result: ok' {} + | wc -l)
    echo "$count tests: $passed passed, $((begun - passed)) failed or cut off, $((count - begun)) not begun"
}
trap 'sum; exit 124' TERM
xargs -0 -r -n 2 -P "${JOBS:-4}" bash -c 'one "$1" "$2"' one <"$logs/names"
code=$?
sum
[ $code = 0 ] && [ "$count" -gt 0 ]
