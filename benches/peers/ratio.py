"""How many times as fast an epoch of the MNIST experiment is here as in PyTorch, in one run.

Runs `stepback-native train` and mnist.py in turns, several times, so that a machine that slows down
slows both, and prints every round's times and ratio and the median ratio as JSON. An epoch of ours is the
difference of two runs' wall-clock times, a short one's and a long one's, over the difference of their epochs:
start-up, loading and saving cancel out, training and both evaluations remain. PyTorch's is the median
that mnist.py measures inside, with the faster of its two ways of evaluating.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
OPTIMIZERS = {
    "sgd-m": {"name": "sgd-m", "lr": 0.1, "momentum": 0.9, "dampening": 0.9},
    "adam": {"name": "adam", "lr": 0.001},
}


def config(optimizer):
    return [
        {
            "dataset": "mnist",
            "dataset_kwargs": {"as_image": False},
            "model": "mlp",
            "model_kwargs": {"output_size": 10, "hidden_sizes": [100, 100], "bias": True},
            "loss_func": "cross_entropy",
            "score_func": "cross_entropy_accuracy",
            "opt": OPTIMIZERS[optimizer],
            "batch_size": 128,
            "max_epoch": 1,
            "run_id": 0,
        }
    ]


def native_seconds(args, config_file, epochs):
    """Wall-clock seconds of a whole run, and the loss after its first epoch."""
    with tempfile.TemporaryDirectory() as output:
        command = [args.native, "train", config_file, "--data-dir", args.data, "--output-dir", output]
        command += ["--epochs", epochs, "--threads", args.threads, "--offline", "-q"]
        start = time.perf_counter()
        subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        (run,) = json.loads((pathlib.Path(output) / f"{config_file.stem}.json").read_text())
        return seconds, run["history"][0]["train_loss"]


def native_epoch(args, config_file):
    short, _ = native_seconds(args, config_file, 1)
    long, loss = native_seconds(args, config_file, 1 + args.epochs)
    return (long - short) / args.epochs, loss


def torch_epoch(args):
    command = [args.python, HERE / "mnist.py", args.data, "--threads", args.threads]
    command += ["--epochs", 1 + args.epochs, "--optimizer", args.optimizer]
    command += ["--compile"] * args.compile
    done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True)
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    fastest = min(reports, key=lambda report: report["epoch_seconds"])
    return fastest["epoch_seconds"], fastest["first_epoch"]["train_loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="the data folder, which holds MNIST/raw/")
    parser.add_argument("--native", default="target/release/stepback-native")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="sgd-m")
    parser.add_argument("--compile", action="store_true", help="torch.compile on PyTorch's side")
    args = parser.parse_args()

    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        config_file = pathlib.Path(folder) / "mnist_peer.json"
        config_file.write_text(json.dumps(config(args.optimizer)))
        native_seconds(args, config_file, 1)  # converts the raw files if need be
        for i in range(args.rounds):
            ours, our_loss = native_epoch(args, config_file)
            theirs, their_loss = torch_epoch(args)
            ratios.append(theirs / ours)
            report = {
                "round": i + 1,
                "native_epoch_seconds": ours,
                "torch_epoch_seconds": theirs,
                "ratio": theirs / ours,
                "native_first_train_loss": our_loss,
                "torch_first_train_loss": their_loss,
            }
            print(json.dumps(report), flush=True)
    print(json.dumps({"optimizer": args.optimizer, "threads": args.threads,
                      "median_ratio": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
