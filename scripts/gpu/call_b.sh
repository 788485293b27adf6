#!/usr/bin/env bash
# The second call, on the same GPU at once, in four minutes: PyTorch on the same work, what is worth most first.
#
#   scripts/gpu/call_b.sh [--results DIR] [--limit SECONDS] [--device DEVICE] [--small] [NETWORK...]
#
# Its seconds go to DIR/peers.jsonl, all else to DIR/call_b.tar.gz; ends with a table of ratios if call_a.sh left its seconds
# in DIR (report.py table DIR prints it again, wherever both files are). torch.compile of ResNet110 takes longer than the call.
set -uo pipefail

here=$(realpath "$(dirname "$0")")
results=gpu-results limit=240 device=cuda epochs=4 small=() networks=()
while [ $# -gt 0 ]; do
    case $1 in
    --results) results=$2 && shift ;;
    --limit) limit=$2 && shift ;;
    --device) device=$2 && shift ;;
    --small) small=(--samples 10 --batch 5 --eval-batch 5) epochs=2 ;;
    -*) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d' && exit 2 ;;
    *) networks+=("$1") ;;
    esac
    shift
done
[ ${#networks[@]} -gt 0 ] || networks=(mlp resnet20 vgg16 resnet110 vit)
archive=call_b.tar.gz
. "$here/stages.sh"
python=${PYTHON:-python3}

# peer SECONDS NETWORK MODE [PRECISION]: the modes of benches/peers/gpu.py
peer() {
    local most=$1 network=$2 mode=$3 precision=${4:-default}
    case " ${networks[*]} " in *" $network "*) ;; *) return ;; esac
    stage "$network-$mode-$precision" "$most" "$python" "$here/../../benches/peers/gpu.py" "$network" --device "$device" \
        --modes "$mode" --precision "$precision" --epochs "$epochs" "${small[@]}" || return
    cat "$work/$network-$mode-$precision.out" >>"$work/peers.jsonl"
    cp "$work/peers.jsonl" "$results/"
}
for network in mlp resnet20 vgg16 resnet110 vit; do peer 45 $network graphs; done
peer 60 mlp both
peer 75 resnet20 both
for network in mlp resnet20 vgg16 vit resnet110; do peer 40 $network eager; done
peer 40 vit graphs tf32
peer 90 vgg16 both

"$python" "$here/report.py" table "$results" | tee "$work/ratios.txt" | cut -c1-200
save
echo "$((SECONDS - deadline + limit)) s; all of it is in $results/$archive"
exit $failed
