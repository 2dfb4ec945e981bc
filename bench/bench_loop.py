"""Our own driver on one core, the backend's worker on another, every frame numbered and checked.

`self`: one VF that is connected to itself.  `pair`: two VFs, both ways at once, the sum.  Sizes are
without the FCS.  What is measured is the slower of the two cores, most often that of the guests:
it fills in, checks and times every frame.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import affinity, report
from bench.backend import serving
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.pair import BUF_SIZE, Pair, ring_len_for

SIZES = (64, 1514)
DEVICES = {"self": 1, "pair": 2}
SLICE_S = 0.1
DRAIN_S = 2.0
MEANING = {
    f"{name}_{size}_{unit}": f"{words}, {size}-byte frames, {text}"
    for name, words in (("self", "a VF to itself"), ("pair", "VF to VF, both ways"))
    for size in SIZES
    for unit, text in (
        ("mpps", "million frames per second"),
        ("best_mpps", "the best tenth of a second: without what else the machine did"),
        ("gbps", "gigabits per second"),
        ("p99_us", "99% of the frames arrive within, at full load"),
    )
}


def time_traffic(paths: list[str], size: int, seconds: float) -> dict[str, float]:
    """Rates of all directions together, and the worse p99 latency."""
    with ExitStack() as stack:
        vfs = [stack.enter_context(VfDriver(path)) for path in paths]
        for vf in vfs:
            vf.start(ring_len=ring_len_for(size, 1), buf_size=BUF_SIZE)
        pair = Pair(vfs[0], vfs[-1], size=size)
        best, before = 0.0, (0, 0.0)
        while pair.seconds < seconds:
            pair.run(min(SLICE_S, seconds))
            done = pair.reports(final=False)
            now = sum(one.received for one in done), pair.seconds
            best = max(best, (now[0] - before[0]) / (now[1] - before[1]) / 1e6)
            before = now
        pair.traffic.drain(DRAIN_S)
        if not all(one.clean for one in pair.reports(final=True)):
            raise RuntimeError(f"frames were lost or damaged: {pair.reports(final=True)}")
    return {
        "mpps": sum(one.mpps for one in done),
        "best_mpps": best,
        "gbps": sum(one.gbps for one in done),
        "p99_us": max(one.latency_p99_us for one in done),
    }


def run(args: argparse.Namespace) -> report.Results:
    guest, worker = args.cpus
    results: report.Results = {}
    for name, devices in DEVICES.items():
        with serving(devices, cpus=[worker]) as paths, affinity.pinned(guest):
            for size in SIZES:
                for unit, value in time_traffic(paths, size, args.seconds).items():
                    results[f"{name}_{size}_{unit}"] = value
    return results


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=2.0, help="of traffic per number")
    affinity.add_option(parser, "GUEST", "WORKER")


if __name__ == "__main__":
    report.main("loop", __doc__, arguments, run, MEANING)
