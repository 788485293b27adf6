"""One epoch of the MNIST experiment in PyTorch on the CPU, written for speed.

The data set is one tensor in memory, a batch is one index_select, there is no DataLoader and no
synchronisation inside an epoch. Initial weights and batches are those of the experiment, so that
losses can be compared as well as times. Prints one JSON line per way of evaluating: in batches of
the training's size, as the experiment does, and in big ones.
"""

import argparse
import gzip
import json
import pathlib
import resource
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SEED = 1234567
RUN_SEED = 456789


def read_idx(folder, name):
    """An IDX file, plain or gzipped, as a numpy array."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rb") as file:
                raw = file.read()
            shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    raise SystemExit(f"{folder} holds neither {name} nor {name}.gz")


def load(folder, split):
    """Images (n, 784), normalised, and labels (n,)."""
    images = torch.from_numpy(read_idx(folder, f"{split}-images-idx3-ubyte").copy())
    labels = torch.from_numpy(read_idx(folder, f"{split}-labels-idx1-ubyte").copy())
    return images.flatten(1).float().div_(255).sub_(0.1307).div_(0.3081), labels.long()


def make_optimizer(name, lr, parameters):
    lr = {"sgd-m": 0.1, "adam": 1e-3}[name] if lr is None else lr
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, dampening=0.9, fused=True)


def train(model, optimizer, x, y, batch, generator):
    """One epoch in the order of a shuffling DataLoader with this generator."""
    model.train()
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    order = torch.randperm(len(x), generator=generator)
    for start in range(0, len(x) - batch + 1, batch):
        index = order[start : start + batch]
        loss = F.cross_entropy(model(x.index_select(0, index)), y.index_select(0, index))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    torch.randperm(len(x), generator=generator)


@torch.inference_mode()
def evaluate(model, x, y, batch):
    """Mean loss and accuracy."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64)
    hits = torch.zeros((), dtype=torch.int64)
    for xs, ys in zip(x.split(batch), y.split(batch)):
        logits = model(xs)
        loss += F.cross_entropy(logits, ys) * len(xs)
        hits += (logits.argmax(1) == ys).sum()
    return loss.item() / len(x), hits.item() / len(x)


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="holds MNIST/raw/ or the four files themselves")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--epochs", type=int, default=6, help="the first is not timed")
    parser.add_argument("--optimizer", choices=("sgd-m", "adam"), default="sgd-m")
    parser.add_argument("--lr", type=float, help="0.1 for sgd-m, 0.001 for adam")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--big-batch", type=int, default=10_000)
    parser.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first is not timed")
    torch.set_num_threads(args.threads)

    raw = args.data / "MNIST" / "raw"
    folder = raw if raw.is_dir() else args.data
    train_set, val_set = load(folder, "train"), load(folder, "t10k")

    torch.manual_seed(SEED)
    layers = [nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
    model = nn.Sequential(*layers)
    optimizer = make_optimizer(args.optimizer, args.lr, model.parameters())
    if args.compile:
        model = torch.compile(model, dynamic=False)
    generator = torch.Generator().manual_seed(RUN_SEED)

    seconds = {"train": [], args.batch: [], args.big_batch: []}
    first = {}
    for epoch in range(args.epochs):
        spent, _ = timed(train, model, optimizer, *train_set, args.batch, generator)
        seconds["train"].append(spent)
        for batch in (args.batch, args.big_batch):
            in_train, on_train = timed(evaluate, model, *train_set, batch)
            in_val, on_val = timed(evaluate, model, *val_set, batch)
            seconds[batch].append(in_train + in_val)
            if epoch == 0:
                first[batch] = on_train + on_val

    for batch in (args.batch, args.big_batch):
        epochs = [t + e for t, e in zip(seconds["train"][1:], seconds[batch][1:])]
        train_loss, train_score, val_loss, val_score = first[batch]
        report = {
            "peer": f"PyTorch {torch.__version__}" + (", compiled" if args.compile else ""),
            "threads": args.threads,
            "optimizer": args.optimizer,
            "evaluation_batch": batch,
            "epoch_seconds": statistics.median(epochs),
            "epoch_seconds_min": min(epochs),
            "epoch_seconds_max": max(epochs),
            "train_seconds": statistics.median(seconds["train"][1:]),
            "evaluation_seconds": statistics.median(seconds[batch][1:]),
            "first_epoch": {
                "train_loss": train_loss,
                "train_score": train_score,
                "val_loss": val_loss,
                "val_score": val_score,
            },
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
