#!/usr/bin/env bash
# Checks and measures a binary on a machine with an NVIDIA GPU, beside PyTorch on the same work; neither Rust nor the
# repository's build is needed there. pack.sh says what to carry.
#
#   scripts/gpu/check.sh BINARY [--results DIR] [--data DIR] [--epochs N] [--python PYTHON] [--modes A,B] [STAGE...]
#
# BINARY is a stepback-native with kernels (built where there was an nvcc); beside it may lie `core-tests` and
# `rows-tests`, executables of tests. Stages, all of them if none is named, each a call of its own where time is short:
#
#   machine    the GPU, its driver, its clocks; the devices that the binary can use
#   tests      those of kernels in core-tests and rows-tests
#   verify     the reference's numbers on the GPU
#   kernels    bench-kernels: kernels one by one, and the training step of every experiment
#   mlp resnet20 vgg16 resnet110 vit
#              N epochs of the experiment in the default precision, and the same in PyTorch; MLP and ViT, for whose
#              linear layers that is single precision, in TF32 too
#
# Real data sets are used where DIR holds them; what is missing is made up, which costs as much time and learns nothing.
# RESULTS gets the reports. Ends with a table of ratios of what RESULTS holds by then, and with status 1 if anything failed.
#
# To try the script without a GPU: --device cpu --samples 300 --batch 50 --data target/made-up
set -uo pipefail

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d'
    exit 2
}

[ $# -gt 0 ] || usage
binary=$(realpath "$1") || usage
shift
root=$(realpath "$(dirname "$0")/../..")
results=gpu-results/$(date -u +%Y-%m-%d)
data=data epochs=4 python=python3 device=cuda modes='' small=() stages=()
while [ $# -gt 0 ]; do
    case $1 in
    --results | --data | --epochs | --python | --device | --modes | --samples | --batch)
        [ $# -gt 1 ] || usage
        case $1 in
        --results) results=$2 ;;
        --data) data=$2 ;;
        --epochs) epochs=$2 ;;
        --python) python=$2 ;;
        --device) device=$2 ;;
        --modes) modes=$2 ;;
        *) small+=("$1" "$2") ;;
        esac
        shift
        ;;
    machine | tests | verify | kernels | mlp | resnet20 | vgg16 | resnet110 | vit) stages+=("$1") ;;
    *) usage ;;
    esac
    shift
done
[ ${#stages[@]} -gt 0 ] || stages=(machine tests verify kernels mlp resnet20 vgg16 resnet110 vit)
mkdir -p "$results"
failed=0
table=()
report() { "$python" "$root/scripts/gpu/report.py" "$@"; }

# Runs a command, keeps what it prints, and notes verdict and seconds. Reports go to NAME.txt, messages to NAME.log.
check() {
    local name=$1 start=$SECONDS verdict=passed
    shift
    printf '== %s: %s\n' "$name" "$*"
    if ! "$@" >"$results/$name.txt" 2>"$results/$name.log"; then
        verdict=FAILED
        failed=1
        tail -qn 20 "$results/$name.txt" "$results/$name.log"
    fi
    table+=("$(printf '%-28s %-7s %5d s' "$name" "$verdict" $((SECONDS - start)))")
}

not_run() { table+=("$(printf '%-28s not run: %s' "$1" "$2")"); }

# Two runs of ours of different length, whose difference is free of what happens once, and PyTorch.
network() {
    local name=$1 precision options precisions=(default)
    # The CPU knows one precision.
    case $name in mlp | vit) [ "$device" = cpu ] || precisions+=(tf32) ;; esac
    report data "$data" "$name" "${small[@]}" || failed=1
    report config "$name" "${small[@]}" >"$results/$name.json" || failed=1
    for precision in "${precisions[@]}"; do
        options=(--device "$device" --data-dir "$data" --offline --overwrite --quiet)
        [ "$precision" = default ] || options+=(--precision "$precision")
        check "$name-$precision-short" "$binary" train "$results/$name.json" --epochs 1 \
            --output-dir "$results/$name-$precision-short" "${options[@]}"
        check "$name-$precision-long" "$binary" train "$results/$name.json" --epochs $((1 + epochs)) \
            --output-dir "$results/$name-$precision-long" "${options[@]}"
        check "$name-$precision-peer" "$python" "$root/benches/peers/gpu.py" "$name" --device "$device" --data "$data" \
            --precision "$precision" --epochs $((1 + epochs)) ${modes:+--modes "$modes"} "${small[@]}"
    done
}

for stage in "${stages[@]}"; do
    case $stage in
    machine)
        if command -v nvidia-smi >/dev/null; then
            check nvidia-smi nvidia-smi \
                --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,memory.total,power.limit --format=csv
            cat "$results/nvidia-smi.txt"
        else
            not_run nvidia-smi "there is none"
        fi
        check devices "$binary" devices
        cat "$results/devices.txt"
        ;;
    tests)
        for name in core-tests rows-tests; do
            tests=$(dirname "$binary")/$name
            if [ -x "$tests" ]; then
                REQUIRE_GPU=1 check $name "$tests" kernels
            else
                not_run $name "no $tests"
            fi
        done
        ;;
    verify)
        # Made-up data are not the reference's: those suites are skipped then.
        verified=$data
        [ ! -e "$data/made-up" ] || verified=$results/none
        check verify "$binary" verify --device "$device" --data-dir "$verified"
        ;;
    kernels)
        check bench-kernels-json "$binary" bench-kernels --device "$device" --json
        [ ! -s "$results/bench-kernels-json.txt" ] || report kernels "$results/bench-kernels-json.txt" || failed=1
        ;;
    *) network "$stage" ;;
    esac
done

printf '\n'
printf '%s\n' "${table[@]}" | tee -a "$results/table.txt"
printf '\n'
report table "$results" | tee "$results/ratios.txt"
exit $failed
