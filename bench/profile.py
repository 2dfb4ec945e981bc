"""Instructions per frame of each stage of the ring paths: take, route, put, done.

Counted by callgrind, so they are the same in every run; where the machine has hardware counters,
cache misses and cycles per frame beside them.  `put` holds `judge`: packet type, verdict and hash.
Frames of the case `tso` are the segments that arrive.

--check compares with the figures that are committed (bench/instructions.json) and fails when one
rose by more than 5%; --record makes them anew, to be committed with the change that earns it.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from bench import report
from bench.bench_ring import DST, SRC
from bench.callgrind import Costs, count_steps
from bench.frames import tcp4, udp4
from bench.perf_counters import Counters
from bench.rig import CSUM_UDP, TSO_TCP, VLAN, Drained, Fed, Pair, Told
from emuiavf.datapath import _worker

FIGURES = Path(__file__).resolve().with_name("instructions.json")
ROUNDS = 4
WARM_UP = 1
COUNTED_ROUNDS = 200
TOLERANCE = 0.05
# A stage that costs next to nothing may cost so many instructions more.
SLACK = 0.5
# Function names begin so; what a turn spends outside of them is the routing.
STAGES = {
    "take": ("tx_take", "gen_take"),
    "put": ("vf_put", "null_put", "verify_put"),
    "judge": ("burst_judge",),
    "done": ("tx_done", "gen_done"),
}
CHECKED = ("all", "take", "put", "done")
PRODUCER = re.compile(rb"GNU C\d+ (\d+)[\d.]* [^\0]*")


class Round(Protocol):
    """What is counted: a round delivers `frames`."""

    frames: int

    def round(self, around: Callable[[], AbstractContextManager[None]] = ...) -> int: ...


@dataclass(frozen=True)
class Case:
    """What is counted, in words, and how it is set up."""

    words: str
    set_up: Callable[[], Round]


SMALL, LARGE = udp4(64, SRC, DST), udp4(1518, SRC, DST)
OTHER = udp4(72, SRC, DST)
BIG = tcp4(15 * 2048, SRC, DST)
CASES = {
    "bare_64": Case("64 bytes, no verdict and no hash", partial(Pair, SMALL)),
    "judged_64": Case("64 bytes, packet type, verdict, hash", partial(Pair, SMALL, judged=True)),
    "rss_64": Case("64 bytes, packet type and hash", partial(Pair, SMALL, hashed=True)),
    "vlan_64": Case(
        "64 bytes, a tag inserted and stripped again",
        partial(Pair, SMALL, strip=True, request=VLAN),
    ),
    "mixed_64": Case(
        "64 and 72 bytes by turns, all of it",
        partial(Pair, SMALL, OTHER, judged=True),
    ),
    "strip_64": Case(
        "64 bytes, all of it, and tags would be stripped if there were any",
        partial(Pair, SMALL, judged=True, strip=True),
    ),
    "csum_64": Case(
        "64 bytes, checksums filled in",
        partial(Pair, SMALL, judged=True, hashed=False, request=CSUM_UDP),
    ),
    "switch_64": Case(
        "64 bytes, bare, through a switch of three", partial(Pair, SMALL, switched=True)
    ),
    "sink_64": Case("64 bytes into a port that counts", partial(Drained, SMALL)),
    "gen_64": Case("64 bytes from a generating port, judged", partial(Fed, 64, judged=True)),
    "verify_64": Case("64 bytes from a generating port into a verifying one", partial(Told, 64)),
    "bare_1518": Case("1518 bytes, no verdict and no hash", partial(Pair, LARGE)),
    "judged_1518": Case("1518 bytes, all of it", partial(Pair, LARGE, judged=True)),
    "csum_1518": Case(
        "1518 bytes, checksums filled in",
        partial(Pair, LARGE, judged=True, hashed=False, request=CSUM_UDP),
    ),
    "tso": Case(
        "30720 bytes cut into segments of 1448",
        partial(Pair, BIG, judged=True, hashed=False, request=TSO_TCP),
    ),
}
MEANING = {
    "all": "instructions per frame",
    "take": "descriptors and heads out of the sender's memory",
    "route": "the turn itself: filter, counting, the calls",
    "put": "into the receiver's memory, with judge",
    "judge": "packet type, verdict and hash",
    "done": "descriptors written back to the sender",
    "cycles": "counted by the CPU",
    "cache_misses": "per frame, all caches",
    "l1d_misses": "loads that miss the first cache, per frame",
    "llc_misses": "loads that miss the last cache, per frame",
}


class NoFigures(Exception):
    """Nothing to count with, or nothing to compare with: why, in one line."""


def build() -> str:
    """The compiler that built the extensions, and whether it optimized: figures are of one build.

    NoFigures for one that was not optimized, or cannot be told.
    """
    producers = [found[0] for found in PRODUCER.finditer(Path(_worker.__file__).read_bytes())]
    if not producers:
        raise NoFigures("it is not known what compiled the extensions")
    text = producers[-1].decode()
    if " -O3" not in text or "-fsanitize" in text:
        raise NoFigures("the extensions are a debug or sanitized build")
    version = PRODUCER.match(producers[-1])
    assert version is not None
    return f"gcc {version[1].decode()}"


def stages(costs: Costs, frames: int) -> report.Results:
    spent = {
        name: sum(costs.spent_in(prefix) for prefix in prefixes)
        for name, prefixes in STAGES.items()
    }
    for name in ("take", "put", "done"):
        if not spent[name]:
            raise RuntimeError(f"none of {', '.join(STAGES[name])} was seen; see STAGES")
    route = costs.all - sum(spent[name] for name in ("take", "put", "done"))
    return {
        "all": costs.all / frames,
        "take": spent["take"] / frames,
        "route": route / frames,
        "put": spent["put"] / frames,
        "judge": spent["judge"] / frames,
        "done": spent["done"] / frames,
    }


def count_instructions(names: list[str]) -> dict[str, report.Results]:
    """Per case the instructions per frame of each stage.  NoFigures without valgrind."""
    if shutil.which("valgrind") is None:
        raise NoFigures("valgrind is not installed (Debian: apt-get install valgrind)")
    steps = count_steps(Path(__file__).resolve(), "--child", *names)
    if len(steps) != len(names) * ROUNDS:
        raise RuntimeError(f"{len(steps)} steps of {len(names)} cases were counted")
    found = {}
    for number, name in enumerate(names):
        total = Costs()
        for step in steps[number * ROUNDS + WARM_UP : (number + 1) * ROUNDS]:
            total.own.update(step.own)
            total.calls.update(step.calls)
        found[name] = stages(total, (ROUNDS - WARM_UP) * CASES[name].set_up().frames)
    return found


def child(names: list[str]) -> None:
    for name in names:
        pair = CASES[name].set_up()
        for _ in range(ROUNDS):
            pair.round()


def count_hardware(names: list[str]) -> dict[str, report.Results]:
    """Per case what the CPU's counters say per frame; OSError without counters."""
    counters = Counters.open()
    found = {}
    try:
        for name in names:
            pair = CASES[name].set_up()
            pair.round()
            counters.read()
            for _ in range(COUNTED_ROUNDS):
                pair.round(counters.counting)
            frames = COUNTED_ROUNDS * pair.frames
            counted = counters.read()
            counted.pop("instructions", None)
            found[name] = {key: value / frames for key, value in counted.items()}
    finally:
        counters.close()
    return found


def rises(found: dict[str, report.Results], figures: dict[str, report.Results]) -> list[str]:
    """What costs more than the figures allow, in words."""
    return [
        f"{name}: {stage} {results[stage]:.1f} instructions per frame, was {was:.1f} "
        f"(+{results[stage] / was - 1:.1%}, at most +{TOLERANCE:.0%})"
        for name, results in found.items()
        for stage in CHECKED
        if results[stage] > (was := figures[name][stage]) * (1 + TOLERANCE) + SLACK
    ]


def check() -> list[str]:
    """Compare this build with the committed figures; NoFigures when that cannot be done."""
    mine = build()
    figures = json.loads(FIGURES.read_text())
    if mine not in figures:
        raise NoFigures(f"figures are of {', '.join(figures)}, this build is of {mine}")
    found = count_instructions(list(CASES))
    if found.keys() != figures[mine].keys():
        raise RuntimeError(f"{FIGURES.name} has other cases: run bench/profile.py --record")
    return rises(found, figures[mine])


def record(found: dict[str, report.Results]) -> None:
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures[build()] = {
        name: {stage: round(value, 1) for stage, value in results.items()}
        for name, results in found.items()
    }
    FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


def table(found: dict[str, report.Results]) -> Table:
    columns = list(dict.fromkeys(key for results in found.values() for key in results))
    words = "; ".join(f"{key}: {MEANING[key]}" for key in columns)
    shown = Table(title="instructions per frame", title_justify="left", caption=words)
    shown.add_column("case")
    for key in columns:
        shown.add_column(key, justify="right")
    shown.add_column("frames")
    for name, results in found.items():
        shown.add_row(name, *(f"{results[key]:.1f}" for key in columns), CASES[name].words)
    return shown


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--check", action="store_true", help="fail when a figure has risen")
    parser.add_argument("--record", action="store_true", help=f"write {FIGURES.name}")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)


def main() -> None:
    parser = report.parser(__doc__)
    arguments(parser)
    args = parser.parse_args()
    names = args.cases or list(CASES)
    if unknown := set(names) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if args.child:
        child(names)
        return
    try:
        if args.check:
            found = check()
            print("\n".join(found) or f"nothing rose by more than {TOLERANCE:.0%}")
            sys.exit(1 if found else 0)
        counted = count_instructions(names)
        if args.record:
            record(counted if not args.cases else count_instructions(list(CASES)))
    except NoFigures as reason:
        sys.exit(f"profile: {reason}")
    try:
        hardware = count_hardware(names)
    except OSError as error:
        print(f"profile: no hardware counters here: {error}", file=sys.stderr)
        hardware = {}
    found = {name: counted[name] | hardware.get(name, {}) for name in names}
    if args.json:
        for name, results in found.items():
            report.show(f"profile {name}", results, MEANING, True)
    else:
        Console().print(table(found))


if __name__ == "__main__":
    main()
