"""`emuiavf inject`: have a VF fail on purpose, for those who write drivers."""

import argparse

from emuiavf.cli import words
from emuiavf.control.methods import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_control(parser)
    words.add_vf(parser)
    kinds = parser.add_subparsers(metavar="WHAT", dest="what", required=True)
    for what, params in words.injections().items():
        row = METHODS[f"inject.{what}"]
        own = kinds.add_parser(what, help=row.summary, description=row.effect)
        words.add_fields(own, params)


def run(args: argparse.Namespace) -> int:
    """0 when it has begun or waits for its occasion; `emuiavf show` tells what is left of it."""
    params = words.collect(words.injections()[args.what], args.vf, vars(args))
    words.call(f"inject.{args.what}", params, words.control_of(args))
    return 0
