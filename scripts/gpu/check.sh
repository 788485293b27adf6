#!/usr/bin/env bash
# Checks and measures a binary on a machine with an NVIDIA GPU; neither Rust nor the repository's build is needed there.
#
#   scripts/gpu/check.sh BINARY [RESULTS] [DATA]
#
# BINARY is a stepback-native with kernels (built where there was an nvcc), and beside it may lie `cuda-tests`, the
# executable of tests/cuda.rs that `cargo test --test cuda --no-run` names. RESULTS gets the reports; DATA holds data sets.
# Ends with a table, and with status 1 if anything failed.
set -uo pipefail

binary=$(realpath "${1:?usage: scripts/gpu/check.sh BINARY [RESULTS] [DATA]}")
results=${2:-gpu-results/$(date -u +%Y-%m-%d)}
data=${3:-data}
here=$(realpath "$(dirname "$0")/../..")
mkdir -p "$results"
failed=0
table=()

# Runs a command, keeps what it prints, and notes verdict and seconds.
check() {
    local name=$1 start=$SECONDS verdict=passed
    shift
    printf '== %s: %s\n' "$name" "$*"
    if ! "$@" >"$results/$name.txt" 2>&1; then
        verdict=FAILED
        failed=1
        tail -n 20 "$results/$name.txt"
    fi
    table+=("$(printf '%-24s %-7s %5d s' "$name" "$verdict" $((SECONDS - start)))")
}

check nvidia-smi nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,memory.total --format=csv
check devices "$binary" devices
tests=$(dirname "$binary")/cuda-tests
if [ -x "$tests" ]; then
    REQUIRE_GPU=1 check cuda-tests "$tests"
else
    table+=("cuda-tests               not run: no $tests")
fi
check verify-runs "$binary" verify --suite runs --device cuda
check verify-mnist "$binary" verify --suite mnist --device cuda --data-dir "$data"
check bench-kernels "$binary" bench-kernels --device cuda
check bench-kernels-json "$binary" bench-kernels --device cuda --json
for precision in fp32 tf32; do
    check "mnist-$precision" "$binary" train "$here/configs/mnist_mlp.json" --only name=momo --only run_id=0 \
        --epochs 5 --device cuda --precision "$precision" --data-dir "$data" --offline --verbose \
        --output-dir "$results/mnist-$precision" --overwrite
done
printf '\n'
printf '%s\n' "${table[@]}" | tee "$results/table.txt"
exit $failed
