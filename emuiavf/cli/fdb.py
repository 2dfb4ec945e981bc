"""`emuiavf fdb`: which addresses a switch sends to which member, as `bridge fdb show` has it."""

import argparse
import json
from collections.abc import Iterator

import msgspec

from emuiavf.cli import words
from emuiavf.control import client
from emuiavf.control.methods import FdbEntry
from emuiavf.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_control(parser)
    parser.add_argument("switch", metavar="SWITCH", nargs="?", help="all switches without it")
    parser.add_argument("--dev", metavar="NAME", help="this member alone")
    parser.add_argument("--json", action="store_true", help="a list of objects")


def run(args: argparse.Namespace) -> int:
    """Of one switch or of all: addresses that were learned, and those that VFs have asked for."""
    found = (
        entry
        for entry in _entries(args.switch, words.control_of(args))
        if args.dev in (None, entry.dev)
    )
    if args.json:
        print(json.dumps([msgspec.to_builtins(entry) for entry in found], indent=2))
        return 0
    for entry in found:
        vlan = f" vlan {entry.vlan}" if entry.vlan else ""
        last = "permanent" if entry.state == "permanent" else f"used {entry.used}"
        print(f"{entry.mac} dev {entry.dev}{vlan} master {entry.master} {last}")
    return 0


def _entries(switch: str | None, path: str | None) -> Iterator[FdbEntry]:
    names = []
    for connection in client.each(path):
        here = [one.name for one in client.switches(connection)]
        for name in here:
            if switch in (None, name):
                yield from client.fdb(connection, name)
        names += here
    if switch is not None and switch not in names:
        raise ConfigError(f"{switch}: no such switch; there are {', '.join(names) or 'none'}")
