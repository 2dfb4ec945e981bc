"""Frames per second with one worker, and with more, each on a CPU of its own.

Generating ports send to verifying ones, pair by pair, and the pairs are spread over the workers:
no second process takes part, so every CPU that the machine has can serve.  What is shared are the
engine, the counters' segment and the machine's caches.  Runs with one worker and with more take
turns, and the medians count.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from emuiavf import Backend
from emuiavf.stats import VERIFY_COUNTERS

MOST = 4
VERIFY_ROW = 2
MEANING = {
    **{
        f"workers_{number}_mpps": f"million frames per second with {number} workers"
        for number in range(2, MOST + 1)
    },
    "workers_1_mpps": "million frames per second with one worker",
    **{
        f"scale_{number}": f"{number} workers against one, in the same run"
        for number in range(2, MOST + 1)
    },
}


def rate(workers: int, cpus: list[int], pairs: int, seconds: float) -> float:
    """Frames verified per second; RuntimeError when one was lost, late or damaged."""
    with Backend(workers=workers, cpus=cpus[:workers], idle="busy") as backend:
        # Sources are dealt out to the workers in the order in which their endpoints came.
        for number in range(pairs):
            backend.add_port(f"gen{number},type=gen")
        for number in range(pairs):
            backend.add_port(f"end{number},type=verify")
            backend.connect(f"gen{number}", f"end{number}")
        backend.start()
        rows = [backend.counters[f"end{number}"][VERIFY_ROW] for number in range(pairs)]
        before, began = sum(int(row[0]) for row in rows), time.monotonic()
        time.sleep(seconds)
        after, lasted = sum(int(row[0]) for row in rows), time.monotonic() - began
        backend.stop()
        for row in rows:
            seen = dict(zip(VERIFY_COUNTERS, map(int, row), strict=False))
            if seen["lost"] or seen["reordered"] or seen["corrupted"]:
                raise RuntimeError(f"not every frame arrived as it was sent: {seen}")
    return (after - before) / lasted


def run(args: argparse.Namespace) -> report.Results:
    cpus = sorted(os.sched_getaffinity(0))
    most = min(MOST, len(cpus))
    rates: dict[int, list[float]] = {workers: [] for workers in range(1, most + 1)}
    for _ in range(args.rounds):
        for workers, found in rates.items():
            found.append(rate(workers, cpus, most, args.seconds))
    medians = {workers: statistics.median(found) for workers, found in rates.items()}
    results = {f"workers_{workers}_mpps": value / 1e6 for workers, value in medians.items()}
    for workers in range(2, most + 1):
        results[f"scale_{workers}"] = medians[workers] / medians[1]
    return results


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each number of workers")


if __name__ == "__main__":
    report.main("workers", __doc__, arguments, run, MEANING)
