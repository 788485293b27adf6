"""Draws the CSV of the same name beside this script with matplotlib.

    python3 SCRIPT.py [FILE]      # FILE ends in .pdf, .svg or .png [default: SCRIPT.pdf]
"""

import csv
import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({"font.size": 8, "pdf.fonttype": 42, "svg.fonttype": "none"})
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

FIGURE = {{FIGURE}}


def read(path):
    """The rows of every line of every panel: x, y, low, high, and where it diverged."""
    lines = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            points, crosses = lines.setdefault((int(row["panel"]), int(row["line"])), ([], []))
            values = [float(row[key] or "nan") for key in ("x", "y", "low", "high")]
            crosses.append(values[0]) if row["diverged"] == "1" else points.append(values)
    return lines


def text(words):
    """What matplotlib would take for a formula is none."""
    return words.replace("$", r"\$")


def scale(axes, axis, which):
    if axis["scale"] == "log":
        getattr(axes, f"set_{which}scale")("log")
    if axis["scale"] == "whole":
        getattr(axes, f"{which}axis").set_major_locator(MaxNLocator(integer=True))
    for end, limit in zip(("left", "right") if which == "x" else ("bottom", "top"), axis["limits"]):
        if limit != "":
            getattr(axes, f"set_{which}lim")(**{end: limit})


def draw(axes, panel, lines):
    for series, (points, crosses) in zip(panel["series"], lines):
        look = {"color": series["colour"], "alpha": series["alpha"]}
        if points:
            x, y, low, high = zip(*points)
            if series["mark"] == "dots":
                axes.plot(x, y, ".", markersize=1.5, label=text(series["label"]), **look)
            else:
                marker = series["marker"] if series["mark"] == "line and markers" else None
                axes.plot(
                    x, y,
                    linestyle=(0, tuple(series["dash"])) if series["dash"] else "-",
                    linewidth=1.2,
                    marker=tuple(marker) if isinstance(marker, list) else marker,
                    markersize=4,
                    markevery=max(1, math.ceil(len(x) / 8)) if len(x) > 16 else 1,
                    markerfacecolor="white" if series["hollow"] else series["colour"],
                    label=text(series["label"]),
                    **look,
                )
                if any(a < b for a, b in zip(low, high)):
                    axes.fill_between(x, low, high, color=series["colour"], alpha=0.15, linewidth=0)
        elif crosses:
            axes.plot([], [], "x", label=text(series["label"]), **look)
        if crosses:
            # Outside of the scale, at its edge.
            place = [1.02 if panel["diverged"] == "top" else -0.02] * len(crosses)
            edge = axes.get_xaxis_transform()
            axes.plot(crosses, place, "x", markersize=4, clip_on=False, transform=edge, **look)
            # Dotted lines to the points, or the crosses, beside them.
            joined = [(point[:2], axes.transData) for point in points if math.isfinite(point[1])]
            joined = sorted(joined + [(at, edge) for at in zip(crosses, place)], key=lambda end: end[0][0])
            for (a, of_a), (b, of_b) in zip(joined, joined[1:]):
                if edge in (of_a, of_b):
                    line = {"arrowstyle": "-", "linestyle": ":", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, **look}
                    axes.annotate("", a, b, xycoords=of_a, textcoords=of_b, arrowprops=line, annotation_clip=False)


def main():
    script = pathlib.Path(__file__)
    lines = read(script.with_suffix(".csv"))
    panels = FIGURE["panels"]
    columns = math.ceil(math.sqrt(len(panels))) if FIGURE["shared"] else len(panels)
    rows = math.ceil(len(panels) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=FIGURE["size"], squeeze=False, layout="constrained",
        sharex=bool(FIGURE["shared"]), sharey=bool(FIGURE["shared"]),
    )
    cells = list(grid.flat)
    for nth, (axes, panel) in enumerate(zip(cells, panels)):
        draw(axes, panel, [lines.get((nth, line), ([], [])) for line in range(len(panel["series"]))])
        scale(axes, panel["x"], "x")
        scale(axes, panel["y"], "y")
        axes.set_title(text(panel["title"]), fontsize=8)
        if nth % columns == 0 or not FIGURE["shared"]:
            axes.set_ylabel(text(panel["y"]["title"]))
        if nth + columns >= len(panels):
            axes.set_xlabel(text(panel["x"]["title"]))
    for axes in cells[len(panels):]:
        axes.set_visible(False)
    named = {}
    for axes in cells:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            named.setdefault(label, handle)
    figure.suptitle("\n".join(map(text, filter(None, [FIGURE["title"], FIGURE["caption"]]))), fontsize=9)
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.savefig(sys.argv[1] if len(sys.argv) > 1 else script.with_suffix(".pdf"))


main()
