"""PyTorch's times for what `cargo bench --bench conv` measures: the least of many, in milliseconds.

    python benches/peers/conv.py [PART OF A NAME] [--threads N]
"""

import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("only", nargs="?", default="")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)
LAST = torch.channels_last


def report(name, f):
    if args.only not in name:
        return
    f()
    least, start, runs = float("inf"), time.perf_counter(), 0
    while runs < 5 or (time.perf_counter() - start < 1 and runs < 200):
        before = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - before)
        runs += 1
    print(f"{name:<32} {1e3 * least:9.3f}", flush=True)


def conv(name, side, cin, cout, stride=1):
    x = torch.randn(128, cin, side, side).to(memory_format=LAST)
    w = torch.randn(cout, cin, 3, 3).to(memory_format=LAST)
    y = F.conv2d(x, w, None, stride, 1)
    dy = torch.randn_like(y)

    def back(*mask):
        return torch.ops.aten.convolution_backward(
            dy, x, w, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [*mask, False]
        )

    with torch.no_grad():
        report(f"{name}/y", lambda: F.conv2d(x, w, None, stride, 1))
        if cin > 3:
            report(f"{name}/dx", lambda: back(True, False))
        report(f"{name}/dw", lambda: back(False, True))


class Block(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.pad = (cout - cin) // 2
        stride = 2 if self.pad else 1
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(cout), nn.BatchNorm2d(cout)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


def resnet20():
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for cout in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(width, cout))
            width = cout
    net = nn.Sequential(*layers).to(memory_format=LAST)
    x = torch.randn(128, 3, 32, 32).to(memory_format=LAST)
    dy = torch.randn(128, 64, 8, 8).to(memory_format=LAST)

    def step():
        for p in net.parameters():
            p.grad = None
        net(x).backward(dy)

    report("resnet20/forward", lambda: net(x))
    report("resnet20/forward and back", step)


def back_too(f, x, dy):
    def step():
        x.grad = None
        f(x).backward(dy)

    return step


def vit():
    tokens = 64 * 65
    for k, n in ((512, 1536), (512, 512)):
        linear = nn.Linear(k, n, bias=False)
        x, dy = torch.randn(tokens, k, requires_grad=True), torch.randn(tokens, n)
        report(f"vit/linear {k} {n}, y, dx, dw", back_too(linear, x, dy))

    def attention(qkv):
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        p = ((q @ k.transpose(-1, -2)) * 64**-0.5).softmax(-1)
        return (p @ v).transpose(1, 2).reshape(64, 65, 512)

    qkv = torch.randn(64, 65, 3, 8, 64, requires_grad=True)
    report("vit/attention", back_too(attention, qkv, torch.randn(64, 65, 512)))
    x, dy = torch.randn(tokens, 512, requires_grad=True), torch.randn(tokens, 512)
    report("vit/layer norm", back_too(nn.LayerNorm(512), x, dy))
    report("vit/gelu", back_too(nn.GELU(), x, dy))


conv("resnet20 first", 32, 3, 16)
conv("resnet20 stage 1", 32, 16, 16)
conv("resnet20 into 2", 32, 16, 32, 2)
conv("resnet20 stage 2", 16, 32, 32)
conv("resnet20 into 3", 16, 32, 64, 2)
conv("resnet20 stage 3", 8, 64, 64)
conv("vgg16 64", 32, 64, 64)
conv("vgg16 128", 16, 128, 128)
conv("vgg16 256", 8, 256, 256)
conv("vgg16 512", 4, 512, 512)
conv("vgg16 512 last", 2, 512, 512)
resnet20()
vit()
