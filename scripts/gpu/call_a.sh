#!/usr/bin/env bash
# The first of two calls on a machine with an NVIDIA GPU, Python and no Rust, in seven minutes: is everything right, how fast
# is each kernel, how fast are epochs. call_b.sh is the second; pack.sh says what to carry.
#
#   scripts/gpu/call_a.sh PACK [--results DIR] [--limit SECONDS] [--device DEVICE] [--small] [NETWORK...]
#
# A line per stage; all that stages write lies in DIR/call_a.tar.gz after each of them, and the seconds of epochs in
# DIR/ours.jsonl. Ends with status 1 if anything failed. NETWORKs are those of report.py, all if none is named.
#
# To try it: --small, and --device cpu, or a driver that is a stub (docs/gpu.md).
set -uo pipefail

here=$(realpath "$(dirname "$0")")
results=gpu-results limit=420 device=cuda epochs=4 networks=()
small=() shapes=() part=() suite=() tests=kernels
usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d'
    exit 2
}
[ $# -gt 0 ] && pack=$(realpath -e "$1") || usage
shift
while [ $# -gt 0 ]; do
    case $1 in
    --results) results=$2 && shift ;;
    --limit) limit=$2 && shift ;;
    --device) device=$2 && shift ;;
    --small)
        small=(--samples 10 --batch 5) epochs=2
        shapes=(--small) part=(--filter linear) suite=(--suite step-logs) tests=linear::kernels
        ;;
    -*) usage ;;
    *) networks+=("$1") ;;
    esac
    shift
done
[ ${#networks[@]} -gt 0 ] || networks=(mlp resnet20 resnet110 vgg16 vit)
archive=call_a.tar.gz
. "$here/stages.sh"
for packed in "$pack"/*.gz; do
    executable=$scratch/$(basename "$packed" .gz)
    gunzip <"$packed" >"$executable" && chmod +x "$executable"
done
binary=$scratch/stepback-native
report=("${PYTHON:-python3}" "$here/report.py")
there() { command -v "$1" >/dev/null; }
# Tests must not do without the GPU.
[ "$device" = cpu ] || export REQUIRE_GPU=1

there nvidia-smi && stage smi 10 nvidia-smi --format=csv \
    --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,memory.total,power.limit && show smi 3
stage devices 10 "$binary" devices && show devices 8

# One kernel. If it fails, which one it was and where is all that is worth knowing.
relu=("$binary" bench-kernels --device "$device" --small --filter relu)
if ! stage canary 30 "${relu[@]}"; then
    stage canary-one-by-one 30 env STEPBACK_NO_GRAPH=1 "${relu[@]}"
    there compute-sanitizer && stage canary-memcheck 90 compute-sanitizer --tool memcheck "${relu[@]}"
    exit 1
fi

LOGS=$work/tests stage tests 120 "$here/tests.sh" "$tests" "$scratch"/*-tests
grep '^FAIL' "$work/tests.out" | head -n 12
tail -n 1 "$work/tests.out"

stage verify 60 "$binary" verify --device "$device" --data-dir "$pack/data" "${suite[@]}"
grep FAILED "$work/verify.out" | head -n 12 | cut -c1-160

# What the GPU can do, then everything.
stage machine 30 "$binary" bench-kernels --device "$device" "${shapes[@]}" --filter relu
show machine 16
if stage kernels 150 "$binary" bench-kernels --device "$device" "${shapes[@]}" "${part[@]}" --json; then
    stage kernels-report 10 "${report[@]}" kernels "$work/kernels.out"
    show kernels-report 40
fi

# Epochs of ours: training, and evaluation of both halves.
# A stage of so many seconds: NETWORK on the data in FOLDER, by a command that may stand before it.
train() {
    local name=$1 most=$2 network=$3 folder=$4 options=$5
    shift 5
    "${report[@]}" config "$network" "${small[@]}" >"$scratch/$network.json"
    # shellcheck disable=SC2086
    stage "$name" "$most" "$@" "$binary" train "$scratch/$network.json" --data-dir "$folder" --offline --quiet \
        --output-dir "$scratch/$name" --device "$device" $options
}
# The precision may also be pdl or chain: the default one, by programmatic dependent launch or in graphs that are chains.
epochs() {
    local network=$1 precision=$2 name=epochs-$1-$2 options="--epochs $epochs" before=()
    case $precision in
    default) ;;
    pdl) before=(env STEPBACK_PDL=1) ;;
    chain) before=(env STEPBACK_CHAIN=1) ;;
    *) options+=" --precision $precision" ;;
    esac
    train "$name" 60 "$network" "$scratch/data" "$options" "${before[@]}" || return
    "${report[@]}" epochs "$scratch/$name" "$network" "$precision" | tee -a "$work/ours.jsonl"
    cp "$work/ours.jsonl" "$results/"
}
# Few samples are made up, whatever there is.
[ ${#small[@]} -gt 0 ] || [ ! -d "$pack/data" ] || cp -r "$pack/data" "$scratch/data"
for network in "${networks[@]}"; do
    "${report[@]}" data "$scratch/data" "$network" "${small[@]}" >"$work/data.out"
    epochs "$network" default
    # Where launches are short.
    if [[ "$network-$device" == @(mlp|resnet20)-cuda ]]; then
        epochs "$network" pdl
        epochs "$network" chain
        stage "losses-$network" 10 "${report[@]}" same "$work/ours.jsonl" "$network"
    fi
    [ "$network-$device" != vit-cuda ] || epochs vit tf32
done

# Profilers and checkers do not work on every machine. What they are tried on has passed without them.
trial=("$scratch/rows-tests" relu::kernels --test-threads 1)
works() { there "$1" && failure=SKIP stage "$1" 60 "$@" "${trial[@]}"; }

# One step and evaluations, launch by launch.
if works ncu --clock-control none --launch-count 1 --metrics gpu__time_duration.sum; then
    metrics=gpu__time_duration.sum,smsp__issue_active.avg.pct_of_peak_sustained_active
    metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active,dram__bytes.sum,lts__t_bytes.sum
    metrics+=,l1tex__data_pipe_lsu_wavefronts_mem_shared.sum,launch__registers_per_thread
    for network in resnet20 vgg16; do
        "${report[@]}" data "$scratch/step" "$network" --samples 640 >"$work/data.out"
        train "ncu-$network" 45 "$network" "$scratch/step" "--epochs 1" env STEPBACK_NO_GRAPH=1 ncu --clock-control none \
            --cache-control none --launch-count 250 --csv --metrics "$metrics"
    done
fi
# Tests, which launch little: bench-kernels repeats what it times.
if works compute-sanitizer --tool synccheck; then
    for tool in racecheck memcheck; do
        for part in conv2d linear; do
            stage "$tool-$part" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "$scratch/rows-tests" "$part::kernels" --test-threads 1
        done
    done
fi
echo "$((SECONDS - deadline + limit)) s; all of it is in $results/$archive"
exit $failed
