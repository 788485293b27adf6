"""Muon's update of the matrices of ResNet20 and the ViT, here and in PyTorch, in turns.

Runs `cargo bench --bench optim -- muon` and two loops over the tensors in PyTorch: torch.optim.Muon, whose Newton-Schulz
iteration is in bfloat16, and the same formulas in single precision, which is what ours computes. Prints for every
network the times of each round and the median ratios as JSON: above 1, ours is faster.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# Shapes of the matrices between two layers, a convolution's as (out, in times pixels), and how many there are.
MATRICES = {
    "resnet20": [((16, 27), 1), ((16, 144), 6), ((32, 144), 1), ((32, 288), 5), ((64, 288), 1), ((64, 576), 5)],
    "vit": [((1536, 512), 6), ((512, 512), 18)],
}


def native(args, network):
    """Milliseconds of an update."""
    command = ["cargo", "bench", "--bench", "optim", "--", f"^muon/{network}$", "--noplot"]
    command += ["--warm-up-time", "1", "--measurement-time", str(args.seconds)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    results = ROOT / "target" / "criterion" / "muon" / network / "new" / "estimates.json"
    return json.loads(results.read_text())["median"]["point_estimate"] / 1e6


def in_single_precision(parameters, buffers):
    """A step of the formulas of src/optim/muon.rs."""
    import torch
    for w, b in zip(parameters, buffers):
        b.lerp_(w.grad, 0.05)
        x = w.grad.lerp(b, 0.95)
        if x.shape[0] > x.shape[1]:
            x = x.T
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(5):
            a = x @ x.T
            x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
        if w.shape[0] > w.shape[1]:
            x = x.T
        w.add_(x, alpha=-0.02 * max(1, w.shape[0] / w.shape[1]) ** 0.5)


def torch(args, network):
    """The same of the two loops, in a process of its own."""
    command = [args.python, __file__, "--alone", network, "--threads", args.threads, "--seconds", args.seconds]
    done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def alone(args):
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shapes = [shape for shape, count in MATRICES[args.alone] for _ in range(count)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for w in parameters:
        w.grad = torch.randn_like(w)
    optimizer = torch.optim.Muon(parameters, lr=0.02, weight_decay=0.0)
    buffers = [torch.zeros_like(w) for w in parameters]
    updates = {"bfloat16": optimizer.step, "float32": lambda: in_single_precision(parameters, buffers)}
    medians = {}
    with torch.no_grad():
        for name, update in updates.items():
            update()
            times, end = [], time.perf_counter() + args.seconds
            while len(times) < 3 or time.perf_counter() < end:
                start = time.perf_counter()
                update()
                times.append(1e3 * (time.perf_counter() - start))
            medians[name] = statistics.median(times)
    print(json.dumps(medians))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(MATRICES), metavar="NETWORK",
                        help=f"of {', '.join(MATRICES)}; all if none is named")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="measuring time of each side per round")
    parser.add_argument("--alone", choices=MATRICES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        return alone(args)

    for network in args.networks:
        ratios = {"bfloat16": [], "float32": []}
        for i in range(args.rounds):
            ours, theirs = native(args, network), torch(args, network)
            for name, milliseconds in theirs.items():
                ratios[name].append(milliseconds / ours)
            print(json.dumps({"network": network, "round": i + 1, "native_ms": ours, "torch_ms": theirs}), flush=True)
        medians = {name: statistics.median(values) for name, values in ratios.items()}
        print(json.dumps({"network": network, "threads": args.threads, "median_ratio": medians}), flush=True)


if __name__ == "__main__":
    main()
