"""Instructions per 64-byte frame of each function, from take to done, counted by callgrind.

Counts do not depend on what else the machine does: they are what a change to the loop is judged by.
Needs valgrind (Debian: apt-get install valgrind).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.bench_ring import DST, SRC
from bench.frames import udp4
from bench.rig import Pair

ROUNDS = 8
LENGTH = re.compile(r"_(\d+)")
FUNCTION = re.compile(r"^c?fn=\((\d+)\)(?: (.*))?$")


def plain(name: str) -> str:
    """__pyx_f_7emuiavf_8_ring_rx_rx_put -> rx_put: parts of the path have their length in front."""
    if not name.startswith("__pyx_"):
        return name
    at = part = name.index("_", len("__pyx_"))
    while match := LENGTH.match(name, at):
        part = match.end()
        at = part + int(match[1])
    return name[at + 1 :] or name[part:]


def self_costs(lines: list[str]) -> Counter[str]:
    """Exclusive instructions by function; what was inlined counts with its caller."""
    names: dict[str, str] = {}
    costs: Counter[str] = Counter()
    current = ""
    called = False
    for line in lines:
        match = FUNCTION.match(line)
        if match:
            number, name = match.groups()
            if name:
                names[number] = name
            if not line.startswith("c"):
                current = names[number]
        elif line.startswith("calls="):
            called = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            # A line without a cost is one where nothing was collected.
            if not called and " " in line:
                costs[current] += int(line.split()[1])
            called = False
    return costs


def count_instructions(kind: str) -> tuple[Counter[str], int]:
    """Instructions by function inside of Worker.step, and the frames they were for."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={out}",
                "--collect-atstart=no",
                "--toggle-collect=*Worker*step*",
                "--quiet",
                sys.executable,
                __file__,
                "--child",
                kind,
            ],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        costs = self_costs(out.read_text().splitlines())
    return costs, ROUNDS * (512 - 1)


def child(kind: str) -> None:
    pair = Pair(udp4(64, SRC, DST), judged=kind == "judged")
    for _ in range(ROUNDS):
        pair.round()


def run(args: argparse.Namespace) -> dict[str, report.Results]:
    found: dict[str, report.Results] = {}
    for kind in ("bare", "judged"):
        costs, frames = count_instructions(kind)
        results = {"all": sum(costs.values()) / frames}
        for name, cost in costs.most_common():
            if cost >= frames:
                results[plain(name)] = cost / frames
        found[kind] = results
    return found


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--child", choices=("bare", "judged"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed (Debian: apt-get install valgrind)")
    for kind, results in run(args).items():
        report.show(f"instructions per frame, {kind}", results, {}, args.json)


if __name__ == "__main__":
    main()
