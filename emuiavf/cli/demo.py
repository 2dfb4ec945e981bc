"""`emuiavf demo`: two devices, our own driver on both, checked frames both ways."""

import argparse
import json
import signal
import sys

from rich.console import Console
from rich.live import Live
from rich.table import Table

from emuiavf.demo import DemoError, DemoInterrupted, DemoOptions, Directions, Stop, run_demo
from emuiavf.errors import ConfigError
from emuiavf.guest._traffic import MAX_SIZE, MIN_SIZE

MAX_QUEUES = 16
MAX_WORKERS = 64
EXIT_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seconds", type=float, default=3.0, help="how long to send (3)")
    add("--size", type=int, default=MIN_SIZE, help=f"bytes per frame, without FCS ({MIN_SIZE})")
    add("--queues", type=int, default=1, metavar="N", help="queue pairs of each device (1)")
    add("--workers", type=int, default=1, metavar="N", help="worker threads of the backend (1)")
    add("--json", action="store_true", help="print one object instead of a table")
    # For the tests of the demo itself: damage a frame, or leave one out.
    add("--inject", choices=("flip", "skip"), default="", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """0 when every frame arrived in order and whole, else 1; 130 when interrupted."""
    options = _options(args)
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.ask())
    try:
        if args.json:
            rows = run_demo(options, lambda rows: None, stop)
            print(json.dumps({**_settings(options), "ok": _clean(rows), "directions": rows}))
        else:
            rows = _run_live(options, stop)
    except DemoError as error:
        print(f"emuiavf demo: {error}", file=sys.stderr)
        return 1
    except DemoInterrupted:
        return EXIT_INTERRUPTED
    return 0 if _clean(rows) else 1


def _options(args: argparse.Namespace) -> DemoOptions:
    if not 0 < args.seconds <= 86_400:
        raise ConfigError(f"--seconds {args.seconds:g}: more than 0, at most 86400")
    if not MIN_SIZE <= args.size <= MAX_SIZE:
        raise ConfigError(f"--size {args.size}: {MIN_SIZE} to {MAX_SIZE}")
    if not 1 <= args.queues <= MAX_QUEUES:
        raise ConfigError(f"--queues {args.queues}: 1 to {MAX_QUEUES}")
    if not 1 <= args.workers <= MAX_WORKERS:
        raise ConfigError(f"--workers {args.workers}: 1 to {MAX_WORKERS}")
    return DemoOptions(args.seconds, args.size, args.queues, args.workers, args.inject)


def _run_live(options: DemoOptions, stop: Stop) -> Directions:
    console = Console()
    title = (
        f"two VFs, {options.queues} queue pair{'s' * (options.queues > 1)} each, "
        f"{options.size} B frames, {options.workers} worker{'s' * (options.workers > 1)}"
    )
    if not console.is_terminal:
        rows = run_demo(options, lambda rows: None, stop)
    else:
        with Live(_table(title, []), console=console, transient=True) as live:
            rows = run_demo(options, lambda rows: live.update(_table(title, rows)), stop)
    console.print(_table(title, rows))
    if _clean(rows):
        console.print("every frame arrived: 0 lost, 0 reordered, 0 corrupted", style="green")
    else:
        console.print("frames were lost, reordered, corrupted or misdirected", style="red")
    return rows


def _table(title: str, rows: Directions) -> Table:
    """One column per direction: fits a terminal of 80 columns."""
    table = Table("received", title=title, title_justify="left")
    for row in rows:
        table.add_column(f"{row['from']} > {row['to']}", justify="right")
    table.add_row("frames", *(f"{row['received']:,}" for row in rows))
    table.add_row("million frames/s", *(f"{row['mpps']:.2f}" for row in rows))
    table.add_row("Gb/s", *(f"{row['gbps']:.2f}" for row in rows))
    table.add_row("latency p50, us", *(f"{row['latency_p50_us']:.1f}" for row in rows))
    table.add_row("latency p99, us", *(f"{row['latency_p99_us']:.1f}" for row in rows))
    for fault in ("lost", "reordered", "corrupted"):
        table.add_row(fault, *(_fault(row[fault]) for row in rows))
    return table


def _fault(count: int) -> str:
    return f"[bold red]{count:,}[/]" if count else "0"


def _clean(rows: Directions) -> bool:
    return bool(rows) and all(row["clean"] for row in rows)


def _settings(options: DemoOptions) -> dict[str, object]:
    return {
        "seconds": options.seconds,
        "size": options.size,
        "queues": options.queues,
        "workers": options.workers,
    }
