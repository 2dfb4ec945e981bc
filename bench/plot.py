"""The picture of bench/peers.py: million frames per second by case and contender.

As a program: bench/plot.py RESULTS FILE, with RESULTS the lines that bench/peers.py --json printed.
Needs matplotlib (pip install emuiavf[plot]).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

# Bars of one group stand side by side, the quickest of its members counts.
GROUPS = {
    "emuiavf": ("#1b6ca8", ("emuiavf",)),
    "vhost-user, best": ("#e08e2b", ("vhost split", "vhost in-order", "vhost packed")),
    "memif, best": ("#6fa35e", ("memif", "memif zero-copy")),
    "bare copy ring": ("#b8b8b8", ("packed_64", "apart_64", "apart_1518")),
}
WIDTH = 0.2

Medians = Mapping[str, float | None]


def bars(medians: Medians) -> dict[str, float]:
    """The height of each group's bar; 0 for one that was not measured."""
    return {
        label: max((medians.get(name) or 0.0 for name in names), default=0.0)
        for label, (_, names) in GROUPS.items()
    }


def draw(cases: Mapping[str, Medians], path: Path, note: str = "") -> None:
    """Write the picture; the kind of file is by the name's suffix."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot: matplotlib is not installed (pip install matplotlib)")
    matplotlib.use("Agg")
    # The same numbers give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "emuiavf"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    heights = [bars(medians) for medians in cases.values()]
    for number, (label, (colour, _)) in enumerate(GROUPS.items()):
        offset = (number - (len(GROUPS) - 1) / 2) * WIDTH
        places = [place + offset for place in range(len(heights))]
        drawn = axes.bar(places, [one[label] for one in heights], WIDTH, color=colour, label=label)
        axes.bar_label(drawn, fmt=lambda height: f"{height:.1f}" if height else "", fontsize=7)
    axes.set_xticks(range(len(cases)), list(cases))
    axes.set_ylabel("million frames per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    if note:
        axes.set_title(note, fontsize=8, loc="left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.results.read_text().splitlines() if line]
    if not lines:
        sys.exit(f"plot: {args.results}: no results")
    cases = {line["case"]: line["medians"] for line in lines}
    draw(cases, args.file, f"{lines[0]['cpu']}, {lines[0]['dpdk']}, commit {lines[0]['commit']}")


if __name__ == "__main__":
    main()
