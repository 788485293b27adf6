#!/usr/bin/env python3
"""What call_a.sh and call_b.sh need besides the binary and PyTorch: configs, made-up data, tables. Standard library only.

    report.py config NETWORK [--batch N]          one run of an experiment with Adam, as JSON
    report.py data DIR NETWORK [--samples N]      random files in place of those that DIR lacks
    report.py kernels FILE                        the lines of a report of bench-kernels that take longest
    report.py epochs FOLDER NETWORK PRECISION     what a run took, and where it came, as a line of JSON
    report.py same FILE NETWORK                   fails if the losses of a network differ between such lines, TF32's apart
    report.py table FOLDER                        such lines in FOLDER/ours.jsonl beside PyTorch's in FOLDER/peers.jsonl
"""

import argparse
import json
import pathlib
import random
import statistics
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CONFIGS = {
    "mlp": "mnist_mlp",
    "resnet20": "cifar10_resnet20",
    "vgg16": "cifar10_vgg16",
    "resnet110": "cifar100_resnet110",
    "vit": "cifar10_vit",
}
LOSSES = ("train_loss", "val_loss", "val_score")


def config(args):
    run = json.loads((ROOT / "configs" / f"{CONFIGS[args.network]}.json").read_text())
    del run["n_runs"]
    run |= {"opt": {"name": "adam", "lr": 0.001}, "run_id": 0}
    if args.batch:
        run["batch_size"] = args.batch
    print(json.dumps([run], indent=4))


def made_up(path, header, record, count, classes, label):
    """Random records with a label at one place of each; written under another name first."""
    draws = random.Random(path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(header)
        for _ in range(count):
            bytes = bytearray(draws.randbytes(record))
            if label is not None:
                bytes[label] %= classes
            file.write(bytes)
    partial.rename(path)
    print(f"{path}: made up")


def data(args):
    """The raw files of a network's data set (binary forms only), random where they are missing."""
    others = [name for pattern in ("cifar-*-batches-py", "cifar-*-python", "cifar-*.tar.gz") for name in args.dir.glob(pattern)]
    if others and args.network != "mlp":
        raise SystemExit(f"{others[0]}: images in another form than the binary one are there, which made-up ones would hide")
    train, val = (min(n, args.samples or n) for n in (50_000, 10_000))
    files = []
    if args.network == "mlp":
        folder = args.dir / "MNIST" / "raw"
        train = min(60_000, args.samples or 60_000)
        for half, n in (("train", train), ("t10k", val)):
            images = struct.pack(">4i", 0x803, n, 28, 28)
            files.append((folder / f"{half}-images-idx3-ubyte", images, 784, n, None))
            files.append((folder / f"{half}-labels-idx1-ubyte", struct.pack(">2i", 0x801, n), 1, n, 0))
        classes = 10
    elif args.network == "resnet110":
        folder = args.dir / "cifar-100-binary"
        files = [(folder / "train.bin", b"", 3074, train, 1), (folder / "test.bin", b"", 3074, val, 1)]
        classes = 100
    else:
        folder = args.dir / "cifar-10-batches-bin"
        files = [(folder / f"data_batch_{i}.bin", b"", 3073, train // 5, 0) for i in range(1, 6)]
        files.append((folder / "test_batch.bin", b"", 3073, val, 0))
        classes = 10
    missing = [file for file in files if not (file[0].exists() or file[0].with_name(file[0].name + ".gz").exists())]
    for path, header, record, count, label in missing:
        made_up(path, header, record, count, classes, label)
    if missing:
        (args.dir / "made-up").touch()


def kernels(args):
    report = json.loads(args.file.read_text())
    print(f"{report['gpu'] or report['device']}, {report['precision']}")
    lines = []
    for line in report["peaks"]:
        rate = "-"
        if line["seconds"]:
            rate = f"{line['tflop_per_s']:.1f} TFLOP/s" if line["flops"] else f"{line['gb_per_s']:.0f} GB/s"
            rate = f"{1e6 * line['seconds']:.2f} us" if line["name"] == "launch" else rate
        lines.append([line["name"], line["about"], rate])
    print_table(["machine", "about", "rate"], lines)
    percent = lambda x: "-" if x is None else f"{100 * x:.0f} %"
    slowest = sorted((l for l in report["rows"] if l["seconds"]), key=lambda l: -l["seconds"])[:12]
    lines = [[l["name"], l["about"], l["part"], f"{1e6 * l['seconds']:.1f}",
              f"{1e6 * (l['hot_seconds'] or l['seconds']):.1f}", percent(l["share_of_copy"]),
              percent(l["share_of_peak"]), "-" if l["error"] is None else f"{l['error']:.1e}"] for l in slowest]
    print_table(["name", "about", "part", "us", "hot", "of copy", "of peak", "error"], lines)
    # TF32 rounds to 11 bits; in single precision it is the order of long sums that differs.
    most = lambda l: 2e-3 if l["precision"] == "tf32" else 1e-4
    wrong = [l for l in report["peaks"] + report["rows"] if l["error"] is None or l["error"] > most(l)]
    for line in wrong:
        print(f"error of {line['name']} ({line['about']}), {line['part']}: {line['error']}")
    lines = []
    for line in report["experiments"]:
        if line["seconds"] is None:
            lines.append([line["name"], line["kernels"] or "-", line["cannot"] or "-", "", ""])
        else:
            lines.append([line["name"], line["kernels"], f"{1e3 * line['seconds']:.3f}",
                          f"{line['samples_per_s']:.0f}", percent(line["share_of_floor"])])
    print_table(["experiment", "kernels", "ms per step", "samples/s", "of floor"], lines)
    if wrong:
        raise SystemExit(1)


def print_table(header, lines):
    rows = [header, *lines]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(header))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()


def epochs(args):
    """Of the run in an output folder: the medians of its epochs but the first, and the last losses, as a line of JSON."""
    (file,) = args.folder.glob("*.json")
    (run,) = json.loads(file.read_text())
    history = run["history"]
    medians = [statistics.median(epoch[key] for epoch in history[1:] or history) for key in ("train_epoch_time", "eval_epoch_time")]
    print(json.dumps({
        "network": args.network,
        "precision": args.precision,
        "device": run["summary"]["device"],
        "epochs": len(history),
        "train_seconds": round(medians[0], 6),
        "evaluation_seconds": round(medians[1], 6),
        "epoch_seconds": round(sum(medians), 6),
        **{key: history[-1][key] for key in LOSSES},
    }))


def json_lines(path):
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{")]


def same(args):
    """How launches wait for one another must change no number."""
    lines = [line for line in json_lines(args.file) if line["network"] == args.network and line["precision"] != "tf32"]
    losses = {line["precision"]: [line[key] for key in LOSSES] for line in lines}
    print(json.dumps(losses, indent=4))
    if len(losses) < 2 or any(own != losses["default"] for own in losses.values()):
        raise SystemExit(f"{args.network}: losses that differ, or nothing to compare")


def table(args):
    """Above 1, ours is faster."""
    all_ours, all_peers = (json_lines(args.folder / name) for name in ("ours.jsonl", "peers.jsonl"))
    lines, notes = [], []
    for network in CONFIGS:
        for precision in ("default", "tf32"):
            is_it = lambda line: (line["network"], line["precision"]) == (network, precision)
            mine = next(filter(is_it, all_ours), None)
            peers = list(filter(is_it, all_peers))
            notes += [f"PyTorch {network} {p['mode']}: {p['failed']}" for p in peers if "failed" in p]
            peers = [p for p in peers if "failed" not in p]
            if not (mine or peers):
                continue
            show = lambda x, digits=4: "-" if x is None else f"{x:.{digits}f}"
            line = [network, precision]
            line += [show(mine and mine[key]) for key in ("train_seconds", "epoch_seconds")]
            eager = next((p for p in peers if p["mode"] == "eager"), None)
            best = min(peers, key=lambda p: p["epoch_seconds"], default=None)
            line.append(show(eager and eager["epoch_seconds"]))
            line += [show(best and best["epoch_seconds"]), best["mode"] if best else "-"]
            for peer in (eager, best):
                for key in ("train_seconds", "epoch_seconds"):
                    both = mine and peer and mine[key] > 0
                    line.append(show(peer[key] / mine[key] if both else None, 2))
            line += [show(mine and mine["train_loss"]), show(best and best["train_loss"])]
            lines.append(line)
    if not lines:
        return
    print("Seconds per epoch of training (train) and of training and both evaluations (epoch); ratios above 1: ours is faster.")
    print_table(["network", "precision", "train", "epoch", "eager", "best", "mode", "x eager train", "x eager", "x best train",
                 "x best", "loss", "best's loss"], lines)
    for note in notes:
        print(note)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    path = pathlib.Path
    for run, names in ((config, ["network"]), (data, ["dir", "network"]), (kernels, ["file"]),
                       (epochs, ["folder", "network", "precision"]), (same, ["file", "network"]), (table, ["folder"])):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        for name in names:
            kinds = {"network": {"choices": list(CONFIGS)}, "precision": {}}
            command.add_argument(name, **kinds.get(name, {"type": path}))
        command.add_argument("--samples", type=int)
        command.add_argument("--batch", type=int)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
