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
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from bench import dpdk, hugepages, limit, report
from bench.bench_loop import cpu_pair
from bench.contenders import MEMIF, OURS, VHOST, Case, Contender, Place
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
LIMIT = "limit"
SETTLE_S = 0.1
# Two programs of each contender, and some for the rings of those in between.
HUGE_MB = 2 * (MEMORY_MB + 32) * len(CONTENDERS)


@dataclass
class Outcome:
    """What one case gave: per contender its turns, or why it did not run."""

    turns: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    disturbed: int = 0

    def median(self, name: str) -> float | None:
        return statistics.median(self.turns[name]) if self.turns.get(name) else None

    def best(self, names: tuple[str, ...]) -> float | None:
        found = [value for name in names if (value := self.median(name)) is not None]
        return max(found) if found else None

    def ratios(self, size: int) -> dict[str, float | None]:
        mine = self.best(tuple(OURS))
        groups = GROUPS | {"vs_limit": limit.CEILINGS[size]}
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


def turn(contender: Contender, seconds: float, retries: int, outcome: Outcome) -> float:
    """One turn; the quietest of its tries when all were disturbed."""
    contender.resume()
    try:
        time.sleep(SETTLE_S)
        tries = []
        for _ in range(1 + retries):
            tries.append(contender.measure(seconds))
            if tries[-1].whole:
                return tries[-1].mpps
        outcome.disturbed += 1
        return max(window.mpps for window in tries)
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
                    rate = turn(up[name], args.seconds, args.retries, outcome)
                except (Failed, OSError) as error:
                    outcome.missing[name] = str(error)
                    del up[name]
                else:
                    outcome.turns.setdefault(name, []).append(rate)
            for name in limit.CEILINGS[case.size]:
                rate = limit.time_ring(
                    limit.SHAPES[name], cpus, args.seconds, 32 * (case.bursts or 4)
                )
                outcome.turns.setdefault(name, []).append(rate)
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
    """Medians per case and contender, and the ratios of ours."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    shown = Table(title="million frames per second, medians", title_justify="left")
    shown.add_column("case")
    rings = tuple(dict.fromkeys(name for names in limit.CEILINGS.values() for name in names))
    names = [*CONTENDERS, *rings]
    for name in [*names, *GROUPS, "vs_limit"]:
        shown.add_column(name, justify="right")
    for case, outcome in outcomes.items():
        ratios = outcome.ratios(CASES[case].size)
        shown.add_row(
            case,
            *(text(outcome.median(name)) for name in names),
            *(text(ratios[key]) for key in [*GROUPS, "vs_limit"]),
        )
    return shown


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--runs", type=int, default=7, help="turns of each contender")
    parser.add_argument("--retries", type=int, default=3, help="of a turn that was disturbed")
    parser.add_argument(
        "--only", default=",".join(CONTENDERS), metavar="LIST", help="contenders, with commas"
    )
    parser.add_argument(
        "--cpus", type=cpu_pair, default=(0, 1), metavar="APPLICATION,WORKER", help="0,1 without"
    )
    parser.add_argument("--no-fetch", action="store_true", help="only an installed DPDK")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (needs matplotlib)")


def chosen(parser: argparse.ArgumentParser, what: str, names: list[str], known: object) -> None:
    assert isinstance(known, dict)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")


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
    if not args.json:
        Console().print(table(outcomes))
    if args.plot:
        from bench import plot

        plot.draw(outcomes, args.plot)


if __name__ == "__main__":
    main()
