"""The two CPUs of a bench, and this thread on one of them."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager


def add_option(parser: argparse.ArgumentParser, *sides: str) -> None:
    """--cpus: one number for each of two sides, named in capitals."""
    parser.add_argument(
        "--cpus", type=_pair, default=(0, 1), metavar=",".join(sides), help="0,1 without"
    )


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    return int(first), int(second)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """This thread on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
