"""`emuiavf reset`: reset a VF as its PF does."""

import argparse

from emuiavf.cli import words
from emuiavf.control.methods import Reset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_control(parser)
    words.add_vf(parser)


def run(args: argparse.Namespace) -> int:
    """0 when the reset has begun."""
    words.call("reset", Reset(args.vf), words.control_of(args))
    return 0
