#!/usr/bin/env python3
"""Compares what the compiled kernels take with records/kernels.json: registers, spilled bytes, and of the loops that
multiply on tensor cores the instructions and the multiplications (HMMA). Needs cuobjdump (pip: nvidia-cuda-cuobjdump,
nvidia-cuda-nvdisasm), found by PATH.

    scripts/gpu/budgets.py FOLDER           the .fatbin files of a build for sm_90a: target/*/build/stepback-native-*/out
    scripts/gpu/budgets.py FOLDER --write   writes the record again

The record is that of one nvcc (its version stands in .ci/run); others allocate otherwise.
"""

import json
import pathlib
import re
import subprocess
import sys

# Files whose kernels multiply on tensor cores.
TENSOR_CORES = ["attention", "causal_attention", "conv2d", "layers", "linear", "muon", "peak", "product", "soap"]
RECORD = pathlib.Path(__file__).parents[2] / "records/kernels.json"


def cuobjdump(option, file):
    command = ["cuobjdump", "--gpu-architecture", "sm_90a", option, str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resources(file):
    """Registers and local bytes, which are spills here, by kernel."""
    text = cuobjdump("--dump-resource-usage", file)
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    return {name: {"registers": int(reg), "spilled": int(stack) + int(local)} for name, reg, stack, local in found}


def loops(file):
    """Of each kernel's innermost loops with HMMAs: [instructions, HMMAs]."""
    kernels = {}
    for text in cuobjdump("--dump-sass", file).split("Function : ")[1:]:
        found = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", text)
        code = [(int(address, 16), instruction) for address, instruction in found]
        places = {address: i for i, (address, _) in enumerate(code)}
        spans = []
        for end, (_, instruction) in enumerate(code):
            target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", instruction)
            begin = places.get(int(target[1], 16)) if target else None
            if begin is not None and begin <= end:
                spans.append((begin, end))
        inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        counts = [(end - begin + 1, sum("HMMA" in i for _, i in code[begin : end + 1])) for begin, end in inner]
        kernels[text.split()[0]] = [list(count) for count in counts if count[1] > 0]
    return kernels


def measured(folder):
    files = sorted(pathlib.Path(folder).glob("*.fatbin"))
    if not files:
        sys.exit(f"{folder} has no .fatbin files: build where there is an nvcc (docs/gpu.md)")
    kernels = {}
    for file in files:
        of_file = resources(file)
        found = loops(file) if file.stem in TENSOR_CORES else {}
        for name, multiplying in found.items():
            if multiplying:
                of_file[name]["loops"] = multiplying
        kernels.update(of_file)
    return dict(sorted(kernels.items()))


def main():
    folder = sys.argv[1]
    now = measured(folder)
    if sys.argv[2:] == ["--write"]:
        lines = [f'"{name}": {json.dumps(taken)}' for name, taken in now.items()]
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    record = json.loads(RECORD.read_text())
    differ = [name for name in sorted(now | record) if now.get(name) != record.get(name)]
    for name in differ:
        print(f"{name}: {now.get(name)}, on record {record.get(name)}")
    if differ:
        sys.exit(f"{RECORD.name} says otherwise; if this is meant: scripts/gpu/budgets.py {folder} --write")
    print(f"{len(now)} kernels take what is on record")


main()
