"""`emuiavf stats`: the counters of running devices and ports, read from their shared memory."""

import argparse
import json

from rich.console import Console
from rich.table import Table

from emuiavf.errors import ConfigError
from emuiavf.stats import SegmentView, list_segments, named, open_segment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="of a device or port; all of them without it")
    add("--json", action="store_true", help="one object with an object of counters per name")
    add("--all", action="store_true", help="the table shows counters that are zero as well")


def run(args: argparse.Namespace) -> int:
    """Print the counters; ConfigError when there are none of that name."""
    segments = _open_all() if args.name is None else {args.name: open_segment(args.name)}
    counters = {name: named(segment) for name, segment in segments.items()}
    if args.json:
        print(json.dumps(counters, indent=2))
        return 0
    console = Console()
    for name, values in counters.items():
        console.print(_table(name, segments[name], values, args.all))
    if not counters:
        console.print("nothing is running")
    return 0


def _open_all() -> dict[str, SegmentView]:
    """Every segment, by name, or by process and name where a name is there twice."""
    found: dict[str, SegmentView] = {}
    idents = list_segments()
    names = [ident.name for ident in idents]
    for ident in idents:
        label = ident.name if names.count(ident.name) == 1 else f"{ident.pid}-{ident.name}"
        try:
            found[label] = SegmentView(ident)
        except ConfigError:
            # Its owner has closed it since the listing.
            continue
    return found


def _table(name: str, segment: SegmentView, values: dict[str, int], zeros: bool) -> Table:
    table = Table("counter", title=f"{name} (pid {segment.ident.pid})", title_justify="left")
    table.add_column("value", justify="right")
    for key, value in values.items():
        # The totals always, so that an idle device shows that it is there.
        if value or zeros or "." not in key:
            table.add_row(key, f"{value:,}")
    return table
