#!/usr/bin/env bash
# A sweep on a Slurm of one node, which this script makes and removes again: 8 tasks, of which one is requeued, one signalled
# and one killed, while the controller is killed and started again. What is missing is submitted once more, and the output
# must be that of one process but for times.
#
#     scripts/slurm/one_node.sh target/release/stepback-native
#
# Needs root and Debian's slurm-wlm and munge; no cgroups. Ports 26817 and 26818 must be free.
set -euo pipefail
program=$(realpath "${1:?usage: $0 PROGRAM}")
for needed in slurmctld slurmd sbatch munged python3; do
    command -v "$needed" >/dev/null || { echo "$needed is missing: apt-get install slurm-wlm munge python3" >&2; exit 2; }
done
dir=$(mktemp -d)
chmod 755 "$dir"
export SLURM_CONF=$dir/slurm.conf
host=$(hostname -s)
pids=()
tidy() {
    local code=$?
    if [ "$code" != 0 ]; then
        tail -n 3 "$dir"/*.log "$dir"/sweep/output/slurm/*.log 2>/dev/null || true
    fi
    # The jobs' processes are no children of ours.
    scancel --user="$(id -un)" --signal=KILL --full 2>/dev/null && sleep 1
    kill -9 "${pids[@]}" 2>/dev/null || true
    rm -rf "$dir"
    exit "$code"
}
trap tidy EXIT
say() { printf '== %s (%d s)\n' "$*" "$SECONDS"; }

mkdir "$dir"/{state,spool,munge,sweep}
dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 status=none
chmod 700 "$dir/munge"
chmod 600 "$dir/munge/key"
cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
echo "NodeName=$host Name=gpu File=/dev/null,/dev/zero" >"$dir/gres.conf"
munged --force --foreground --socket="$dir/munge.socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" >"$dir/munged.log" 2>&1 &
pids+=($!)
controller() {
    slurmctld -D >>"$dir/controller.log" 2>&1 &
    controller=$!
    pids+=($!)
}
controller
slurmd -D >"$dir/node.log" 2>&1 &
pids+=($!)
until sinfo --noheader --format=%T 2>/dev/null | grep -q idle; do sleep 0.2; done
say "Slurm is up"

cd "$dir/sweep"
cat >sweep.json <<JSON
{"dataset": "synthetic_linear", "dataset_kwargs": {"p": 100, "n_samples": 2000}, "model": "linear",
 "loss_func": "logistic", "score_func": "logistic_accuracy", "batch_size": 5, "max_epoch": ${EPOCHS:-400},
 "opt": [{"name": ["sgd-m", "adam"], "lr": [0.1, 0.01, 0.001]}, {"name": "momo", "lr": [1, 0.1]}], "n_runs": 2}
JSON
train="--threads 1 --checkpoint-every 0.5 -v"
runs=$("$program" train sweep.json --dry-run --quiet | wc -l)
job=$("$program" slurm sweep.json --max-parallel 8 --time 30:00 --sbatch-option cpus-per-task=1 -- $train)
# Until something is so; a minute at most.
until_so() {
    local end=$((SECONDS + 120))
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || { echo "not in two minutes: $*" >&2; exit 1; }
        sleep 0.1
    done
}
log() { echo "output/slurm/sweep-${job}_$1.log"; }
trains() { grep -q " epoch 3: " "$(log "$1")" 2>/dev/null; }
for task in 1 2 3; do until_so trains "$task"; done
"$program" status sweep
worker() {
    local pid
    for pid in $(pgrep -x stepback-native); do
        grep -qz "^SLURM_ARRAY_TASK_ID=$1\$" "/proc/$pid/environ" 2>/dev/null && echo "$pid"
    done
}
say "task 1 is requeued, 2 signalled, 3 killed, and so is the controller"
scontrol requeue "${job}_1"
scancel --batch --signal=USR1 "${job}_2"
kill -9 $(worker 3)
kill -9 "$controller"
sleep 2
controller
until_so scontrol ping
# A requeued task waits two minutes, one that the new controller has tried to start again is held.
hurry() {
    local id
    for id in $(squeue --noheader --states=PENDING --format=%i); do
        scontrol update jobid="$id" StartTime=now 2>/dev/null || true
        scontrol release "$id" 2>/dev/null || true
    done
    scontrol update nodename="$host" state=resume 2>/dev/null || true
}
ended() { hurry; [ -z "$(squeue --noheader)" ]; }
until_so ended
say "the job has ended"
"$program" status sweep || true
# By the files: nothing, or what the killed one has left.
job=$("$program" slurm sweep.json --missing --max-parallel 2 --sbatch-option cpus-per-task=1 -- $train)
[ -z "$job" ] || until_so ended
"$program" status sweep

say "what one process writes"
"$program" train sweep.json --output-dir alone --quiet
python3 - "$runs" <<'PYTHON'
import json, sys
TIMES = {"start_time", "end_time", "command", "threads", "peak_memory_bytes", "update_seconds", "update_share"}
def read(path):
    runs = json.load(open(path))
    for run in runs:
        run["summary"] = {key: value for key, value in run["summary"].items() if key not in TIMES}
        for epoch in run["history"]:
            del epoch["train_epoch_time"], epoch["eval_epoch_time"]
    return runs
many, one = read("output/sweep.json"), read("alone/sweep.json")
assert len(one) == int(sys.argv[1]), len(one)
assert many == one, "not the same"
print(len(one), "runs, the same but for times")
PYTHON
resumed=$(grep -l "continues from epoch" output/slurm/*.log | wc -l)
echo "$resumed tasks have gone on from checkpoints"
[ "$resumed" -ge 2 ]
say "done"
