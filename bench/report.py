"""What every bench prints: a table for people, or one line of JSON."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

Results = dict[str, float]
# What is promised of the results, in sentences, and whether it was kept.
Verdict = Callable[[Results], dict[str, bool]]
ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, str | float]:
    """Where numbers come from: without it they cannot be compared."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": names[0] if names else platform.machine(),
        "cpus": os.cpu_count() or 1,
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "commit": commit.stdout.strip() or "unknown",
    }


def table(title: str, results: Results, meaning: Mapping[str, str]) -> Table:
    shown = Table(title=title, title_justify="left")
    shown.add_column("key")
    shown.add_column("value", justify="right")
    shown.add_column("meaning")
    for key, value in results.items():
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
        shown.add_row(key, text, meaning.get(key, ""))
    return shown


def parser(text: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    return made


def show(
    title: str,
    results: Results,
    meaning: Mapping[str, str],
    as_json: bool,
    verdict: Verdict | None = None,
) -> None:
    said = verdict(results) if verdict else {}
    if as_json:
        rounded = {key: round(value, 3) for key, value in results.items()}
        judged = {"verdict": said} if verdict else {}
        print(json.dumps({"bench": title, **machine(), "results": rounded, **judged}))
    else:
        Console().print(table(title, results, meaning))
        for sentence, kept in said.items():
            print("kept:    " if kept else "not kept:", sentence)


def main(
    title: str,
    text: str | None,
    arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], Results],
    meaning: Mapping[str, str],
    verdict: Verdict | None = None,
) -> None:
    """A bench as a program of its own: its options, its numbers."""
    made = parser(text)
    arguments(made)
    args = made.parse_args()
    show(title, run(args), meaning, args.json, verdict)
