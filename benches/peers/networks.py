"""Training steps and evaluation batches of the CIFAR networks and the llama in PyTorch on the CPU.

Random images and labels, or tokens, channels-last where there are convolutions, momentum SGD. Prints one JSON line
per network: milliseconds of a training step (forward, backward, update) and of an evaluation batch, and
the number of parameters, which must be that of the experiment's network.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn(channels, width, stride=1):
    conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width)]


class Block(nn.Module):
    """A residual block of two convolutions; a shortcut that shrinks drops pixels and pads channels."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.body = nn.Sequential(*conv_bn(channels, width, stride), nn.ReLU(True), *conv_bn(width, width))
        self.stride = stride
        self.padding = (width - channels) // 2

    def forward(self, x):
        shortcut = x
        if self.padding:
            step = self.stride
            shortcut = F.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.body(x) + shortcut, inplace=True)


def resnet(depth, classes):
    layers = [*conv_bn(3, 16), nn.ReLU(True)]
    channels = 16
    for width in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            layers.append(Block(channels, width, width // channels))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def vgg16(classes):
    layers = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for _ in range(2):
        layers += [nn.Dropout(), nn.Linear(512, 512), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.Linear(512, classes))


class Attention(nn.Module):
    def __init__(self, dim, heads, head_dim, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(dropout))

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.to_qkv(self.norm(x)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return x + self.to_out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        layers = [nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers, nn.Linear(hidden, dim), nn.Dropout(dropout))

    def forward(self, x):
        return x + self.body(x)


class ViT(nn.Module):
    """Pre-norm vision transformer on 32 x 32 images, classified by its class token."""

    def __init__(self, classes, patch=4, dim=512, depth=6, heads=8, hidden=512, head_dim=64, dropout=0.1):
        super().__init__()
        self.patch = patch
        pixels = 3 * patch * patch
        self.embed = nn.Sequential(nn.LayerNorm(pixels), nn.Linear(pixels, dim), nn.LayerNorm(dim))
        self.position = nn.Parameter(torch.randn(1, (32 // patch) ** 2 + 1, dim))
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.dropout = nn.Dropout(dropout)
        blocks = []
        for _ in range(depth):
            blocks += [Attention(dim, heads, head_dim, dropout), FeedForward(dim, hidden, dropout)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, x):
        batch, side = len(x), 32 // self.patch
        x = x.view(batch, 3, side, self.patch, side, self.patch)
        x = self.embed(x.permute(0, 2, 4, 3, 5, 1).reshape(batch, side * side, -1))
        x = torch.cat((self.token.expand(batch, -1, -1), x), 1) + self.position
        return self.head(self.blocks(self.dropout(x))[:, 0])


class Decoder(nn.Module):
    """A block of the llama: RMSNorm, rotary embedding, causal attention, SiLU; no biases."""

    def __init__(self, dim, heads, hidden, angles):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.SiLU(), nn.Linear(hidden, dim, bias=False))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x):
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = even * self.cos - odd * self.sin, odd * self.cos + even * self.sin
        return torch.stack(turned, -1).flatten(-2)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, dim))
        return x + self.mlp(self.norms[1](x))


class Llama(nn.Module):
    def __init__(self, vocabulary, dim=384, heads=6, hidden=1536, depth=6, tokens=256):
        super().__init__()
        steps = torch.arange(0, dim // heads, 2).double() * heads / dim
        angles = torch.outer(torch.arange(tokens).double(), 500000.0**-steps).float()
        self.embed = nn.Embedding(vocabulary, dim)
        self.blocks = nn.Sequential(*(Decoder(dim, heads, hidden, angles) for _ in range(depth)))
        self.head = nn.Sequential(nn.RMSNorm(dim, eps=1e-6), nn.Linear(dim, vocabulary, bias=False))

    def forward(self, x):
        return self.head(self.blocks(self.embed(x))).flatten(0, 1)


# name: (build, classes, batch, parameters, channels-last)
NETWORKS = {
    "resnet20": (lambda classes: resnet(20, classes), 10, 128, 269_722, True),
    "resnet110": (lambda classes: resnet(110, classes), 100, 128, 1_733_812, True),
    "vgg16": (vgg16, 10, 128, 15_253_578, True),
    "vit": (ViT, 10, 64, 9_524_842, False),
    "llama4": (Llama, 92, 4, 10_692_480, False),
    "llama16": (Llama, 92, 16, 10_692_480, False),
}


def train_step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@torch.inference_mode()
def evaluate(model, x, y):
    logits = model(x)
    return F.cross_entropy(logits, y), (logits.argmax(1) == y).sum()


def milliseconds(function, *arguments, warmup, repeats):
    """Median, smallest and largest time of a call."""
    times = []
    for i in range(warmup + repeats):
        start = time.perf_counter()
        function(*arguments)
        if i >= warmup:
            times.append(1e3 * (time.perf_counter() - start))
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def measure(name, args):
    build, classes, batch, expected, channels_last = NETWORKS[name]
    batch = args.batch or batch
    torch.manual_seed(0)
    model = build(classes)
    parameters = sum(p.numel() for p in model.parameters())
    if parameters != expected:
        raise SystemExit(f"{name} has {parameters} parameters instead of {expected}")
    if isinstance(model, Llama):
        x, y = torch.randint(classes, (batch, 256)), torch.randint(classes, (batch * 256,))
    else:
        x, y = torch.randn(batch, 3, 32, 32), torch.randint(classes, (batch,))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, dampening=0.9, fused=True)
    if args.compile:
        model = torch.compile(model, dynamic=False)
    counts = {"warmup": args.warmup, "repeats": args.repeats}
    model.train()
    step = milliseconds(train_step, model, optimizer, x, y, **counts)
    model.eval()
    evaluation = milliseconds(evaluate, model, x, y, **counts)
    return {
        "peer": f"PyTorch {torch.__version__}" + (", compiled" if args.compile else ""),
        "threads": args.threads,
        "network": name,
        "parameters": parameters,
        "batch": batch,
        "train_step_ms": step,
        "evaluation_ms": evaluation,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK",
                        help=f"of {', '.join(NETWORKS)}; all if none is named")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, help="128, 64 for vit, 4 and 16 windows for llama4 and llama16")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    args = parser.parse_args()
    unknown = [name for name in args.networks if name not in NETWORKS]
    if unknown:
        parser.error(f"no network named {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    torch.set_num_threads(args.threads)
    for name in args.networks:
        print(json.dumps(measure(name, args)), flush=True)


if __name__ == "__main__":
    main()
