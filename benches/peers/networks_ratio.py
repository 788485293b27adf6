"""How many times as fast the networks are here as in PyTorch, in one run.

Runs `cargo bench --bench models` and networks.py in turns, several times, so that a machine that slows down
slows both, and prints for every network the times of each round and the median ratios as JSON: above 1, ours
is faster. Same batch, same layers, momentum SGD on both sides; PyTorch with channels last.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# In networks.py and in benches/models.rs.
NETWORKS = ["resnet20", "resnet110", "vgg16", "vit", "llama4", "llama16"]
PARTS = {"step": "train_step_ms", "evaluation": "evaluation_ms"}


def native(args, network):
    """Milliseconds of a training step and of an evaluation batch."""
    command = ["cargo", "bench", "--bench", "models", "--", f"^{network}/", "--noplot"]
    command += ["--warm-up-time", "1", "--measurement-time", str(args.seconds)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    results = ROOT / "target" / "criterion" / network
    times = {}
    for part in PARTS:
        estimates = json.loads((results / part / "new" / "estimates.json").read_text())
        times[part] = estimates["median"]["point_estimate"] / 1e6
    return times


def torch(args, network):
    command = [args.python, HERE / "networks.py", network, "--threads", args.threads]
    command += ["--repeats", args.repeats] + ["--compile"] * args.compile
    done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    return {part: report[key]["median"] for part, key in PARTS.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK",
                        help=f"of {', '.join(NETWORKS)}; all if none is named")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10, help="timed calls in PyTorch per round")
    parser.add_argument("--seconds", type=int, default=5, help="measuring time of ours per round and part")
    parser.add_argument("--compile", action="store_true", help="torch.compile on PyTorch's side")
    args = parser.parse_args()

    for network in args.networks:
        ratios = {part: [] for part in PARTS}
        for i in range(args.rounds):
            ours, theirs = native(args, network), torch(args, network)
            report = {"network": network, "round": i + 1}
            for part in PARTS:
                ratios[part].append(theirs[part] / ours[part])
                report[part] = {"native_ms": ours[part], "torch_ms": theirs[part],
                                "ratio": ratios[part][-1]}
            print(json.dumps(report), flush=True)
        medians = {part: statistics.median(values) for part, values in ratios.items()}
        print(json.dumps({"network": network, "threads": args.threads, "median_ratio": medians}), flush=True)


if __name__ == "__main__":
    main()
