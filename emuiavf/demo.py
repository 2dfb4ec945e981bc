"""The demo: a backend with two connected VFs here, our own driver on both in another process.

They share nothing but the sockets and what goes over them; see `guest.pair` for the other half.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emuiavf.app import Backend
from emuiavf.errors import EmuIavfError
from emuiavf.guest.pair import Plan

DEVICES = ("emu_iavf0", "emu_iavf1")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


class DemoError(EmuIavfError):
    """The guest process failed; the text is the last thing it said."""


class DemoInterrupted(EmuIavfError):
    """The demo was stopped before its end."""


class Stop:
    """Ends a demo, now or as soon as it has begun; `ask` is for signal handlers.

    An exception out of a handler would leave a half-made backend behind, wherever it struck.
    """

    def __init__(self) -> None:
        self.asked = False
        self._process: subprocess.Popen[str] | None = None

    def ask(self) -> None:
        self.asked = True
        if self._process is not None:
            self._process.kill()

    def covers(self, process: subprocess.Popen[str]) -> None:
        """The process whose end is the demo's."""
        self._process = process
        if self.asked:
            process.kill()


@dataclass(frozen=True)
class DemoOptions:
    """`size` is the length of each frame without FCS, `queues` and `workers` are numbers."""

    seconds: float = 3.0
    size: int = 64
    queues: int = 1
    workers: int = 1
    inject: str = ""


Directions = list[dict[str, Any]]


def run_demo(
    options: DemoOptions, progress: Callable[[Directions], None], stop: Stop | None = None
) -> Directions:
    """Run it all; one row per direction: the fields of `guest.traffic.Report`, rates, `clean`.

    `progress` gets such rows several times a second.  DemoError when the guests fail,
    DemoInterrupted when `stop` was asked.
    """
    stop = stop or Stop()
    with tempfile.TemporaryDirectory(prefix="emuiavf-") as folder:
        paths = tuple(str(Path(folder, f"{name}.sock")) for name in DEVICES)
        with Backend(options.workers) as backend:
            for name, path, mac in zip(DEVICES, paths, MACS, strict=True):
                backend.add_device(f"{name},path={path},mac={mac},queues={options.queues}")
            backend.connect(*DEVICES)
            backend.start()
            plan = Plan(
                (paths[0], paths[1]), options.seconds, options.size, options.queues, options.inject
            )
            with _guests(plan, stop) as lines:
                return _watch(lines, progress)


def _watch(lines: Iterable[str], progress: Callable[[Directions], None]) -> Directions:
    """Read to the end: then the guests have left their devices, too."""
    result: Directions = []
    for line in lines:
        try:
            news = json.loads(line)
        except ValueError:
            raise DemoError("the guests ended in the middle of a line") from None
        rows: Directions = news["directions"]
        for number, row in enumerate(rows):
            row["from"], row["to"] = DEVICES[number], DEVICES[1 - number]
        if news["final"]:
            result = rows
        else:
            progress(rows)
    if not result:
        raise DemoError("the guests ended without a result")
    return result


@contextmanager
def _guests(plan: Plan, stop: Stop) -> Iterator[Iterable[str]]:
    """The guest process; yields its lines.  It is gone when this ends, whatever happens."""
    command = [sys.executable, "-m", "emuiavf.guest.pair", json.dumps(asdict(plan))]
    # One thread: those that numpy would start take the cores from the worker.
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            stop.covers(process)
            yield process.stdout
        except DemoError as error:
            if stop.asked:
                raise DemoInterrupted("stopped before its end") from None
            said = process.stderr.read().strip().splitlines()
            raise DemoError(said[-1] if said else str(error)) from None
        finally:
            process.kill()
