#!/usr/bin/env bash
# Builds what call_a.sh needs on a machine with a GPU and no Rust, and puts it into one folder, of at most 64 MiB together with
# the repository's files:
#
#   scripts/gpu/pack.sh [FOLDER] [DATA]     FOLDER is gpu-pack unless named, DATA the data folder whose MNIST is taken along
#
#   FOLDER/stepback-native.gz    release build with kernels for compute capability 9.0 (STEPBACK_CUDA_ARCHS names others)
#   FOLDER/core-tests.gz, rows-tests.gz   the executables of tests/core/ and tests/rows/
#   FOLDER/data/MNIST/raw        the four files, gzipped, if DATA has them; CIFAR is too large and made up there
#
# Without the emulator, of which nothing is needed there. Scripts, peers and configs are the repository's own. On the other
# machine, in the repository's folder:
#
#   scripts/gpu/call_a.sh gpu-pack; scripts/gpu/call_b.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-gpu-pack}
data=${2:-data}
export STEPBACK_CUDA_ARCHS=${STEPBACK_CUDA_ARCHS:-90a} STEPBACK_EMULATOR=${STEPBACK_EMULATOR:-0}
cargo build --release --locked
if target/release/stepback-native devices | grep -q 'carries no kernels'; then
    echo "the build found no nvcc: set NVCC, CUDA_HOME or PATH (see docs/gpu.md)" >&2
    exit 1
fi
mkdir -p "$folder"
cp target/release/stepback-native "$folder/stepback-native"
for name in core rows; do
    tests=$(cargo test --release --locked --test $name --no-run --message-format=json |
        sed -n 's/.*"name":"'$name'".*"executable":"\([^"]*\)".*/\1/p')
    cp "$tests" "$folder/$name-tests"
done
for executable in stepback-native core-tests rows-tests; do
    strip "$folder/$executable"
    gzip -f "$folder/$executable"
done
raw=$data/MNIST/raw
for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    mkdir -p "$folder/data/MNIST/raw"
    packed=$folder/data/MNIST/raw/$name-ubyte.gz
    if [ -e "$raw/$name-ubyte.gz" ]; then
        cp "$raw/$name-ubyte.gz" "$packed"
    elif [ -e "$raw/$name-ubyte" ]; then
        gzip -9 <"$raw/$name-ubyte" >"$packed"
    else
        echo "no $raw/$name-ubyte: MNIST will be made up" >&2
        rm -rf "$folder/data"
        break
    fi
done
du -sh "$folder"/*
repository=$(git ls-files -z --cached --others --exclude-standard | du -cb --files0-from=- | tail -n 1 | cut -f1)
left=$((64 - (repository >> 20) - 1))
size=$(du -sm "$folder" | cut -f1)
if [ "$size" -gt "$left" ]; then
    echo "$folder has $size MiB, more than the $left that the repository's files leave of 64" >&2
    exit 1
fi
