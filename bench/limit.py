"""The ceiling: what a bare ring in shared memory moves between two cores of this machine.

One producer, one consumer, descriptors of 16 bytes, bursts of 32; each side copies each frame
once.  No translation, no bounds, no filter, no doorbell page, no counters.  Sizes are of what is
copied.
"""

import argparse
import mmap
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import affinity, report
from emuiavf.datapath._limit import CopyRing

SLOTS = 512
IN_FLIGHT = 128


# A window counts when each side had its core for so much of it.
WHOLE = 0.97


@dataclass(frozen=True)
class Window:
    """One measurement.  `whole`: nobody else had the two cores meanwhile."""

    mpps: float
    whole: bool


def quiet(measure: Callable[[], Window], retries: int) -> Window:
    """A window that was not disturbed; the best of all when each one was."""
    windows = []
    for _ in range(1 + retries):
        windows.append(measure())
        if windows[-1].whole:
            return windows[-1]
    return max(windows, key=lambda window: window.mpps)


@dataclass(frozen=True)
class Shape:
    """Frames of `size` bytes in buffers `stride` bytes apart."""

    size: int
    stride: int


SHAPES = {
    "packed_64": Shape(64, 64),
    "apart_64": Shape(64, 2048),
    "apart_1518": Shape(1518, 2048),
}
WORDS = {
    "packed_64": "64 bytes, one buffer right behind the other",
    "apart_64": "64 bytes, buffers 2 KiB apart, as those of a driver are",
    "apart_1518": "1518 bytes, buffers 2 KiB apart",
}
MEANING = {f"{name}_mpps": f"million frames per second, {words}" for name, words in WORDS.items()}
MEANING |= {f"{name}_best_mpps": "the best run" for name in SHAPES}
# What the cases of bench/peers.py are held against, by frame size: the quicker of two layouts.
CEILINGS = {64: ("packed_64", "apart_64"), 1518: ("apart_1518",)}


def time_ring(
    shape: Shape, cpus: tuple[int, int], seconds: float, in_flight: int = IN_FLIGHT
) -> Window:
    """Frames from the first CPU to the second."""
    memory = mmap.mmap(-1, CopyRing.memory_needed(SLOTS, shape.stride))
    ring = CopyRing(memory, slots=SLOTS, stride=shape.stride, size=shape.size, in_flight=in_flight)
    moved: dict[str, int] = {}
    had_s: list[float] = []
    failures: list[BaseException] = []

    def side(name: str, cpu: int, work: Callable[[], int]) -> None:
        os.sched_setaffinity(0, {cpu})
        before = time.thread_time()
        try:
            moved[name] = work()
        except RuntimeError as error:
            failures.append(error)
        had_s.append(time.thread_time() - before)

    sides = (("consumer", cpus[1], ring.consume), ("producer", cpus[0], ring.produce))
    threads = [threading.Thread(target=side, args=one) for one in sides]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    ring.stop()
    took = time.perf_counter() - began
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Window(moved["consumer"] / took / 1e6, min(had_s) > WHOLE * took)


def run(args: argparse.Namespace) -> report.Results:
    with affinity.pinned(args.cpus[0]):
        rates: dict[str, list[float]] = {name: [] for name in SHAPES}
        for _ in range(args.runs):
            for name, shape in SHAPES.items():
                measure = partial(time_ring, shape, args.cpus, args.seconds, args.in_flight)
                rates[name].append(quiet(measure, args.retries).mpps)
    return {f"{name}_mpps": statistics.median(found) for name, found in rates.items()} | {
        f"{name}_best_mpps": max(found) for name, found in rates.items()
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument("--runs", type=int, default=5, help="per number, which is their median")
    parser.add_argument("--retries", type=int, default=3, help="of a run that was disturbed")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, metavar="FRAMES")
    affinity.add_option(parser, "PRODUCER", "CONSUMER")


if __name__ == "__main__":
    report.main("limit", __doc__, arguments, run, MEANING)
