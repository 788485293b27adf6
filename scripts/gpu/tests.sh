#!/usr/bin/env bash
# Runs the tests of executables whose names contain FILTER: those of an executable in one process, which opens the GPU once,
# then those that it has not passed, each in a process of its own: after a kernel has failed, its process can run no more.
#
#   scripts/gpu/tests.sh FILTER EXECUTABLE...     TOGETHER=60 seconds for one process with all, LIMIT=30 for one with a
#                                                 test, of which JOBS=12 run at a time; LOGS=DIR for what they print
#
# A line for each failure, the last one for all. `cargo test --no-run --test core --test rows` names the executables.
set -uo pipefail

filter=$1
shift
logs=${LOGS:-$(mktemp -d)}
mkdir -p "$logs"
export logs LIMIT=${LIMIT:-30}

# NAME.out of an executable has its tests' lines alone: messages go to stderr.
together() {
    local log=$logs/$(basename "$1") code=0
    "$1" --list 2>/dev/null | sed -n 's/: test$//p' | grep -F -- "$filter" | tee "$log.others" >"$log.names"
    [ -s "$log.names" ] || return 0
    timeout --foreground -k 5 "${TOGETHER:-60}" "$1" "$filter" --test-threads 1 --color never >"$log.out" 2>"$log.err" || code=$?
    passed "$log.out" | grep -vxFf - "$log.names" >"$log.others"
    [ $code = 0 ] && return
    printf 'FAIL all of %s in one process: exit code %s\n%s\n' "$(basename "$1")" $code \
        "$(grep -m 1 'FAILED$' "$log.out" || tail -n 1 "$log.out")"
    return 1
}
passed() { sed -n 's/^test \(.*[^ ]\) *\.\.\. ok$/\1/p' "$@"; }

alone() {
    local log
    log=$logs/$(printf '%s' "$2" | tr -c 'A-Za-z0-9_' _ | cut -c1-100)-$(printf '%s' "$1$2" | cksum | cut -d' ' -f1).log
    timeout --foreground -k 5 "$LIMIT" "$1" --exact "$2" --test-threads 1 >"$log" 2>&1 && return 0
    printf 'FAIL %s: exit code %s\n%s\n' "$2" $? "$(grep -v '^\(running\|$\|note:\|failures:\)' "$log" | tail -n 4 | cut -c1-200)"
    return 1
}
export -f alone

# Also where time runs out.
sum() {
    local count together begun alone
    count=$(cat "$logs"/*.names | wc -l)
    together=$(passed "$logs"/*.out 2>/dev/null | wc -l)
    begun=$(find "$logs" -name '*.log' | wc -l)
    alone=$(find "$logs" -name '*.log' -exec grep -lm1 'test result: ok' {} + | wc -l)
    echo "$count tests: $together passed in one process and $alone alone, $((begun - alone)) failed or cut off," \
        "$((count - together - begun)) not begun"
    [ "$count" -gt 0 ]
}
trap 'sum; exit 124' TERM
code=0
for executable in "$@"; do
    together "$executable" || code=1
done
for executable in "$@"; do
    while IFS= read -r name; do printf '%s\0%s\0' "$executable" "$name"; done <"$logs/$(basename "$executable").others"
done | xargs -0 -r -n 2 -P "${JOBS:-12}" bash -c 'alone "$1" "$2"' alone || code=1
sum && exit $code
