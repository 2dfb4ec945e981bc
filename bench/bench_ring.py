"""Take, put and done of the rings on one core, without a second thread.

`bare`: translation, bounds, MAC filter and full writeback.  `judged`: packet type, checksum
verdict and hash as well.  Sizes are those on the wire, with the FCS, as data sheets count them.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.frames import udp4
from bench.rig import Pair

SRC, DST = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
MEANING = {
    "bare_ns": "64-byte frame, no RSS and no verdict",
    "judged_ns": "64-byte frame with packet type, verdict and hash",
    "bare_best_ns": "the best round: without what else the machine did",
    "judged_best_ns": "the best round",
    "bare_1518_ns": "1518-byte frame, copied",
    "judged_1518_ns": "1518-byte frame, checksum taken while copying",
}


def time_ring(size: int, judged: bool, rounds: int, ring_len: int) -> tuple[float, float]:
    """Median and best nanoseconds per frame over `rounds` rings of frames."""
    pair = Pair(udp4(size, SRC, DST), ring_len=ring_len, judged=judged)
    for _ in range(3):
        pair.round()
    took = [pair.round() / pair.frames for _ in range(rounds)]
    return statistics.median(took), min(took)


def run(args: argparse.Namespace) -> report.Results:
    results: report.Results = {}
    for name, judged in (("bare", False), ("judged", True)):
        median, best = time_ring(64, judged, args.rounds, args.ring_len)
        results[f"{name}_ns"], results[f"{name}_best_ns"] = median, best
    for name, judged in (("bare", False), ("judged", True)):
        results[f"{name}_1518_ns"], _ = time_ring(1518, judged, args.rounds, args.ring_len)
    return results


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=300, help="rings of frames per number")
    parser.add_argument("--ring-len", type=int, default=512, help="descriptors per ring")


if __name__ == "__main__":
    report.main("ring", __doc__, arguments, run, MEANING)
