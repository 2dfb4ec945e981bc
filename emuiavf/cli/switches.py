"""`emuiavf switches`: switches and who is their member."""

import argparse
import json

import msgspec

from emuiavf.cli import words
from emuiavf.control import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_control(parser)
    parser.add_argument("--json", action="store_true", help="a list of objects")


def run(args: argparse.Namespace) -> int:
    """Those of one process, or of all of this user's."""
    found = [
        one
        for connection in client.each(words.control_of(args))
        for one in client.switches(connection)
    ]
    if args.json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
        return 0
    for one in found:
        print(f"{one.name}: {' '.join(one.members) or 'no members'}")
        print(f"    age {one.age}, storm {one.storm}, learned {one.learned}, evicted {one.evicted}")
    return 0
