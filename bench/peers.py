"""An unmodified testpmd on our device, next to DPDK's own shared-memory interfaces, on two cores.

The application (testpmd) has the first core, what is behind its device the second: our worker, or
another testpmd with vhost-user or memif.  All contenders of a case take turns, with the bare copy
ring of bench/limit.py among them, and the median of the turns counts.  A turn in which somebody
else had one of the cores is taken again, up to --retries times.

Needs DPDK of Debian, which is fetched into .cache/dpdk when it is not installed, and root or
reserved huge pages (without them memory is of small pages, which all contenders bear alike).
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from bench import affinity, dpdk, hugepages, limit, plot, report
from bench.contenders import MEMIF, OURS, VHOST, Case, Contender, Place
from bench.limit import Window
from bench.testpmd import MEMORY_MB, Failed

CASES = {
    "macswap_64": Case("testpmd macswap, looped back", "macswap", "io"),
    "io_64": Case("testpmd io, looped back", "io", "io"),
    "vf_to_vf_64": Case("two devices crossed, testpmd io on both", "io", "io", ports=2),
    "txonly_64": Case(
        "testpmd txonly into a counting end", "txonly", "rxonly", at_back=True, bursts=0
    ),
    "rxonly_64": Case("a generating end into testpmd rxonly", "rxonly", "txonly", bursts=0),
    "io_1518": Case("testpmd io, 1518 bytes, looped back", "io", "io", size=1518),
}
CONTENDERS = {**OURS, **VHOST, **MEMIF}
# What each ratio is of: ours over the best of these.
GROUPS: dict[str, tuple[str, ...]] = {"vs_vhost": tuple(VHOST), "vs_memif": tuple(MEMIF)}
LIMIT = "vs_limit"
# What is to be reached.
GOALS: dict[str, dict[str, float]] = {
    "macswap_64": {"vs_vhost": 2.0, "vs_memif": 2.0},
    "io_64": {"vs_vhost": 3.0, LIMIT: 0.6},
    "vf_to_vf_64": {"vs_vhost": 3.0},
    "txonly_64": {"vs_vhost": 2.0},
    "rxonly_64": {"vs_vhost": 2.0},
    "io_1518": {"vs_vhost": 1.8},
}
SETTLE_S = 0.1
STANDSTILL_MPPS = 0.01
# Two programs of each contender, and some for the rings of those in between.
HUGE_MB = 2 * (MEMORY_MB + 32) * len(CONTENDERS)


@dataclass
class Outcome:
    """What one case gave: per contender its turns, or why it did not run."""

    turns: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    disturbed: int = 0

    def add(self, name: str, window: Window) -> None:
        self.turns.setdefault(name, []).append(window.mpps)
        self.disturbed += not window.whole

    def median(self, name: str) -> float | None:
        return statistics.median(self.turns[name]) if self.turns.get(name) else None

    def best(self, names: tuple[str, ...]) -> float | None:
        found = [value for name in names if (value := self.median(name)) is not None]
        return max(found) if found else None

    def ratios(self, size: int) -> dict[str, float | None]:
        mine = self.best(tuple(OURS))
        groups = GROUPS | {LIMIT: limit.CEILINGS[size]}
        found: dict[str, float | None] = {"mpps": mine}
        for key, names in groups.items():
            best = self.best(names)
            found[key] = mine / best if mine is not None and best else None
        return found


def bring_up(
    case: Case, place: Place, names: list[str], stack: ExitStack, outcome: Outcome
) -> dict[str, Contender]:
    """Every contender that can, stopped; the others are told in `outcome`."""
    up: dict[str, Contender] = {}
    for name in names:
        try:
            up[name] = stack.enter_context(CONTENDERS[name](case, place))
        except (Failed, RuntimeError, OSError) as error:
            outcome.missing[name] = str(error)
        else:
            up[name].pause()
    return up


def turn(contender: Contender, seconds: float, retries: int) -> Window:
    """One turn of a contender that is stopped before and after."""
    contender.resume()
    try:
        time.sleep(SETTLE_S)
        window = limit.quiet(lambda: contender.measure(seconds), retries)
        if window.mpps < STANDSTILL_MPPS and contender.restart is not None:
            contender.restart()
            time.sleep(SETTLE_S)
            window = limit.quiet(lambda: contender.measure(seconds), retries)
        return window
    finally:
        contender.pause()


def measure(case: Case, place: Place, names: list[str], args: argparse.Namespace) -> Outcome:
    outcome = Outcome()
    cpus = (place.app_cpu, place.back_cpu)
    with ExitStack() as stack:
        up = bring_up(case, place, names, stack, outcome)
        for _ in range(args.runs):
            for name in list(up):
                try:
                    outcome.add(name, turn(up[name], args.seconds, args.retries))
                except (Failed, OSError) as error:
                    outcome.missing[name] = str(error)
                    del up[name]
            for name in limit.CEILINGS[case.size]:
                in_flight = 32 * case.bursts or limit.IN_FLIGHT
                ring = partial(limit.time_ring, limit.SHAPES[name], cpus, args.seconds, in_flight)
                outcome.add(name, limit.quiet(ring, args.retries))
    return outcome


def as_json(name: str, outcome: Outcome, facts: Mapping[str, object]) -> str:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    ratios = {key: rounded(value) for key, value in outcome.ratios(CASES[name].size).items()}
    medians = {one: rounded(outcome.median(one)) for one in outcome.turns}
    return json.dumps(
        {
            "bench": "peers",
            "case": name,
            **ratios,
            "medians": medians,
            "missing": outcome.missing,
            "disturbed": outcome.disturbed,
            **facts,
        }
    )


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """Medians by contender, then ours over the best of each kind beside what is to be reached."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    shown = Table(title="million frames per second, medians", title_justify="left")
    shown.add_column("")
    for case in outcomes:
        shown.add_column(case, justify="right")
    rings = tuple(dict.fromkeys(name for names in limit.CEILINGS.values() for name in names))
    for name in [*CONTENDERS, *rings]:
        shown.add_row(name, *(text(outcome.median(name)) for outcome in outcomes.values()))
    shown.add_section()
    for key in [*GROUPS, LIMIT]:
        cells = []
        for case, outcome in outcomes.items():
            value, goal = outcome.ratios(CASES[case].size)[key], GOALS[case].get(key)
            wanted = "" if goal is None else f" (>= {goal:g})"
            missed = value is not None and goal is not None and value < goal
            cells.append(f"[red]{text(value)}{wanted}[/red]" if missed else text(value) + wanted)
        shown.add_row(key, *cells)
    return shown


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--runs", type=int, default=7, help="turns of each contender")
    parser.add_argument("--retries", type=int, default=3, help="of a turn that was disturbed")
    parser.add_argument(
        "--only", default=",".join(CONTENDERS), metavar="LIST", help="contenders, with commas"
    )
    affinity.add_option(parser, "APPLICATION", "WORKER")
    parser.add_argument("--no-fetch", action="store_true", help="only an installed DPDK")
    parser.add_argument("--results", type=Path, metavar="FILE", help="the JSON, beside the table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (needs matplotlib)")


def chosen(parser: argparse.ArgumentParser, what: str, names: list[str], known: object) -> None:
    assert isinstance(known, dict)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")


def leave(number: int, frame: FrameType | None) -> None:
    """End by way of everything that is to be given back."""
    sys.exit(128 + number)


def main() -> None:
    parser = report.parser(__doc__)
    arguments(parser)
    args = parser.parse_args()
    cases = args.cases or list(CASES)
    names = [name.strip() for name in args.only.split(",")]
    chosen(parser, "case", cases, CASES)
    chosen(parser, "contender", names, CONTENDERS)
    if not set(args.cpus) <= os.sched_getaffinity(0) or len(set(args.cpus)) != 2:
        sys.exit(f"peers: needs two CPUs, {args.cpus} are not")
    try:
        testpmd = dpdk.find(fetch=not args.no_fetch)
    except dpdk.Missing as reason:
        sys.exit(f"peers: {reason}")
    signal.signal(signal.SIGTERM, leave)
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="emuiavf-peers-") as folder, ExitStack() as stack:
        huge = stack.enter_context(hugepages.reserved(HUGE_MB))
        if not huge:
            print("peers: no huge pages can be had; memory is of small pages", file=sys.stderr)
        facts = report.machine() | {"dpdk": testpmd.version, "huge": huge}
        place = Place(testpmd, *args.cpus, Path(folder), huge)
        for name in cases:
            outcomes[name] = measure(CASES[name], place, names, args)
            for one, why in outcomes[name].missing.items():
                print(f"peers: {name}: no {one}: {why}", file=sys.stderr)
            if args.json:
                print(as_json(name, outcomes[name], facts), flush=True)
    if args.results:
        lines = [as_json(name, outcome, facts) for name, outcome in outcomes.items()]
        args.results.write_text("\n".join(lines) + "\n")
    if not args.json:
        Console().print(table(outcomes))
    if args.plot:
        medians = {
            name: {one: outcome.median(one) for one in outcome.turns}
            for name, outcome in outcomes.items()
        }
        plot.draw(medians, args.plot, f"{facts['cpu']}, {facts['dpdk']}, commit {facts['commit']}")


if __name__ == "__main__":
    main()
