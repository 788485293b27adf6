"""Epochs of the five experiments in PyTorch on a GPU, written for speed.

The data set lies on the device as bytes; a batch is gathered, augmented (flip and crop, drawn on the device) and
normalised there; losses are added up there and read once per evaluation. Per epoch it trains, then evaluates the
training half, augmented as the experiment has it, and the validation half. Adam, fused.

Modes, each a way that users of PyTorch make it faster:
  eager          as written
  channels-last  convolutions in that layout
  compile        torch.compile(mode="max-autotune") of model and loss, which uses CUDA graphs itself
  graphs         whole steps captured as CUDA graphs, channels last
  both           steps of a compiled model captured as CUDA graphs, channels last

Prints one JSON line per network and mode: seconds of the epochs behind the first, losses of the last. A mode that fails
says so in its line, and the exit status is 1.
"""

import argparse
import gc
import json
import pathlib
import statistics
import sys
import time
import traceback

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import mnist
import networks

MODES = ("eager", "channels-last", "compile", "graphs", "both")
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
PADDING = 4


def mlp(classes):
    layers = [nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, classes))


# name: (build, classes, batch, parameters, convolutional, mean and standard deviation)
NETWORKS = {"mlp": (mlp, 10, 128, 89_610, False, ((0.1307,), (0.3081,)))}
for name, (build, classes, batch, parameters, convolutional) in networks.NETWORKS.items():
    batch = 512 if name == "vit" else batch
    scale = CIFAR10 if classes == 10 else CIFAR100
    NETWORKS[name] = (build, classes, batch, parameters, convolutional, scale)


def read_cifar(folder, classes, split):
    """Images (n, 3, 32, 32) and labels (n,) of the binary files."""
    if classes == 10:
        folder, head = folder / "cifar-10-batches-bin", 1
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    else:
        folder, head = folder / "cifar-100-binary", 2
        names = ["train.bin" if split == "train" else "test.bin"]
    records = np.concatenate([np.fromfile(folder / n, np.uint8).reshape(-1, head + 3072) for n in names])
    return records[:, head:].reshape(-1, 3, 32, 32), records[:, head - 1]


def read(args, name, classes, split):
    """Bytes and labels; random ones where no data folder is given."""
    if args.data is None:
        n = {"train": 60_000 if name == "mlp" else 50_000, "val": 10_000}[split]
        shape = (1, 28, 28) if name == "mlp" else (3, 32, 32)
        draws = np.random.default_rng(len(split))
        n = min(n, args.samples or n)
        images = draws.integers(256, size=(n, *shape), dtype=np.uint8)
        labels = draws.integers(classes, size=n)
    elif name == "mlp":
        part = "train" if split == "train" else "t10k"
        raw = args.data / "MNIST" / "raw"
        images = mnist.read_idx(raw, f"{part}-images-idx3-ubyte")[:, None]
        labels = mnist.read_idx(raw, f"{part}-labels-idx1-ubyte")
    else:
        images, labels = read_cifar(args.data, classes, split)
    n = args.samples or len(images)
    return np.ascontiguousarray(images[:n]), labels[:n].astype(np.int64)


class Half:
    """One half of a data set on the device; images to be augmented have a black border."""

    def __init__(self, images, labels, scale, augmented, channels_last, device):
        border = PADDING if augmented else 0
        images = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
        # Channels last, so that the gather reads whole pixels.
        self.images = torch.from_numpy(images).permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = torch.from_numpy(labels).to(device)
        mean, std = (torch.tensor(v, device=device) for v in scale)
        self.factor, self.shift = 1 / (255 * std), -mean / std
        self.augmented = augmented
        self.channels_last = channels_last
        self.side = images.shape[2] - 2 * border
        self.pixels = torch.arange(self.side, device=device)

    def __len__(self):
        return len(self.labels)

    def batch(self, index):
        if self.augmented:
            n, device = len(index), index.device
            top, left = torch.randint(2 * PADDING + 1, (2, n, 1), device=device)
            flip = torch.rand(n, 1, device=device) < 0.5
            columns = torch.where(flip, self.pixels.flip(0), self.pixels) + left
            x = self.images[index[:, None, None], (self.pixels + top)[:, :, None], columns[:, None, :]]
        else:
            x = self.images[index]
        x = (x * self.factor + self.shift).permute(0, 3, 1, 2)
        return x if self.channels_last else x.contiguous(), self.labels[index]


class Run:
    """A network at work in one mode."""

    def __init__(self, name, mode, args, halves):
        build, _, batch, expected, convolutional, _ = NETWORKS[name]
        self.device = torch.device(args.device)
        self.batch = args.batch or batch
        self.eval_batch = args.eval_batch
        self.train_half, self.val_half = halves
        torch.manual_seed(0)
        self.model = build(NETWORKS[name][1]).to(self.device)
        parameters = sum(p.numel() for p in self.model.parameters())
        if parameters != expected:
            raise SystemExit(f"{name} has {parameters} parameters instead of {expected}")
        if convolutional and mode != "eager":
            self.model = self.model.to(memory_format=torch.channels_last)
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True,
                                          capturable=on_gpu and mode in ("graphs", "both"))
        self.loss = self.loss_of
        tuned = {"compile": "max-autotune", "both": "max-autotune-no-cudagraphs"}.get(mode)
        if tuned:
            # On a CPU, where the script is only tried, no code is generated: that would take minutes.
            how = {"mode": tuned} if on_gpu else {"backend": "aot_eager"}
            self.loss = torch.compile(self.loss_of, dynamic=False, **how)
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.step, self.score = self.eager_step, self.eager_score
        # On a CPU there is nothing to capture: the same steps run one by one.
        if mode in ("graphs", "both") and on_gpu:
            self.step = self.captured(self.eager_step, self.train_half, self.batch, train=True)
            scores = {id(half): self.captured(lambda index, half=half: self.eager_score(half, index), half,
                                              self.eval_batch, train=False)
                      for half in halves}
            self.score = lambda half, index: scores[id(half)](index)

    def loss_of(self, x, y):
        logits = self.model(x)
        return F.cross_entropy(logits, y), logits

    def eager_step(self, index):
        torch.compiler.cudagraph_mark_step_begin()
        loss, _ = self.loss(*self.train_half.batch(index))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def eager_score(self, half, index):
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            x, y = half.batch(index)
            loss, logits = self.loss(x, y)
            self.sums[0] += loss.double() * len(index)
            self.sums[1] += (logits.argmax(1) == y).sum()

    def captured(self, function, half, size, train):
        """A function of an index of one size that replays a graph; others run one by one."""
        self.model.train(train)
        index = torch.arange(size, device=self.device) % len(half)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                function(index)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            function(index)

        def run(wanted):
            if len(wanted) != size:
                return function(wanted)
            index.copy_(wanted)
            graph.replay()

        return run

    def train(self):
        self.model.train()
        order = torch.randperm(len(self.train_half), device=self.device)
        for start in range(0, len(order) - self.batch + 1, self.batch):
            self.step(order[start : start + self.batch])

    def evaluate(self, half):
        """Mean loss and accuracy."""
        self.model.eval()
        self.sums.zero_()
        for index in torch.arange(len(half), device=self.device).split(self.eval_batch):
            self.score(half, index)
        loss, hits = (self.sums / len(half)).tolist()
        return loss, hits

    def timed(self, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, result


def measure(name, mode, args, halves):
    start = time.perf_counter()
    run = Run(name, mode, args, halves)
    train, evaluation = [], []
    for epoch in range(args.epochs):
        seconds, _ = run.timed(run.train)
        train.append(seconds)
        in_train, on_train = run.timed(run.evaluate, run.train_half)
        in_val, on_val = run.timed(run.evaluate, run.val_half)
        evaluation.append(in_train + in_val)
        if epoch == 0:
            first = time.perf_counter() - start
    epochs = [t + e for t, e in zip(train[1:], evaluation[1:])]
    report = {
        "batch": run.batch,
        "evaluation_batch": run.eval_batch,
        "steps": len(run.train_half) // run.batch,
        "epoch_seconds": statistics.median(epochs),
        "train_seconds": statistics.median(train[1:]),
        "evaluation_seconds": statistics.median(evaluation[1:]),
        "first_epoch_and_setup_seconds": first,
        "train_loss": on_train[0],
        "train_score": on_train[1],
        "val_loss": on_val[0],
        "val_score": on_val[1],
    }
    if run.device.type == "cuda":
        report["peak_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return report


def set_precision(precision):
    """torch's own defaults are TF32 in convolutions and fp32 in matrix products, as are ours."""
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.benchmark = True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK",
                        help=f"of {', '.join(NETWORKS)}; all if none is named")
    parser.add_argument("--modes", default=",".join(MODES), help="some of them, with commas between")
    parser.add_argument("--precision", choices=("default", "tf32", "fp32"), default="default")
    parser.add_argument("--epochs", type=int, default=4, help="the first is not timed")
    parser.add_argument("--data", type=pathlib.Path, help="the data folder; random data without it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, help="128, and 512 for vit")
    parser.add_argument("--eval-batch", type=int, default=1000)
    parser.add_argument("--samples", type=int, help="at most so many of each half, to try the script")
    args = parser.parse_args()
    for given, known in ((args.networks, NETWORKS), (args.modes.split(","), MODES)):
        unknown = [x for x in given if x not in known]
        if unknown:
            parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first is not timed")
    set_precision(args.precision)
    failed = False
    for name in args.networks:
        _, classes, _, _, convolutional, scale = NETWORKS[name]
        data = [read(args, name, classes, split) for split in ("train", "val")]
        for mode in args.modes.split(","):
            if mode == "channels-last" and not convolutional:
                continue
            line = {"peer": f"PyTorch {torch.__version__}", "network": name, "mode": mode,
                    "precision": args.precision, "data": "random" if args.data is None else "real"}
            if args.device.startswith("cuda"):
                line["gpu"] = torch.cuda.get_device_name(args.device)
                torch.cuda.reset_peak_memory_stats()
            try:
                last = convolutional and mode != "eager"
                halves = [Half(*half, scale, name != "mlp" and i == 0, last, args.device)
                          for i, half in enumerate(data)]
                line |= measure(name, mode, args, halves)
            except Exception as error:  # whatever a compiler or a graph throws: the other modes still count
                traceback.print_exc()
                line["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                failed = True
            print(json.dumps(line), flush=True)
            # What one mode leaves, graphs with their memory above all, is not to weigh on the next.
            halves = None
            torch._dynamo.reset()
            gc.collect()
            if args.device.startswith("cuda"):
                torch.cuda.empty_cache()
    sys.exit(failed)


if __name__ == "__main__":
    main()
