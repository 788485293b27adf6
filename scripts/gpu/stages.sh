# For call_a.sh and call_b.sh, which are limited in time, in files and in what they may print: a command is a stage, which
# prints one line, ends in time, and is followed by an archive of all that the stages so far have written.
#
#   results=DIR     where the archive goes
#   work=DIR        what goes into it: every stage's NAME.out and NAME.err, and what stages write there themselves
#   archive=NAME    its name
#   limit=SECONDS   when everything must have ended, from now

mkdir -p "$results"
results=$(realpath "$results")
work=$(mktemp -d)
# Large things that are not for the archive.
scratch=$(mktemp -d)
trap 'rm -rf "$work" "$scratch"' EXIT
deadline=$((SECONDS + limit))
failed=0

# stage NAME SECONDS COMMAND...: PASS or FAIL, with the end of what a failure said. With failure=SKIP before it, it tries a tool
# that may not work on this machine, and nothing has failed.
stage() {
    local name=$1 most=$2 begin=$SECONDS left=$((deadline - SECONDS - 5)) verdict=PASS code=0
    shift 2
    if [ "$left" -lt 5 ]; then
        printf 'SKIP %-24s no time left\n' "$name"
        return 1
    fi
    timeout -k 5 $((most < left ? most : left)) "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null || code=$?
    if [ $code != 0 ]; then
        verdict=${failure:-FAIL}
        [ "$verdict" = SKIP ] || failed=1
    fi
    printf '%s %-24s %3d s%s\n' $verdict "$name" $((SECONDS - begin)) "$([ $code = 0 ] || echo ", exit code $code")"
    [ $code = 0 ] || tail -qc 350 "$work/$name.err" "$work/$name.out" | sed 's/^/    /'
    save
    return $code
}

# What a stage wrote, cut to so many lines.
show() { head -n "$2" "$work/$1.out" | cut -c1-200; }

save() { tar -C "$work" -czf "$results/$archive.partial" . && mv "$results/$archive.partial" "$results/$archive"; }
