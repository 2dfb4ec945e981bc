"""The process under attack: `emuiavf run`, seen from outside.

Started from the root of the tree that these tests lie in, so a sanitized copy of the tree attacks
its own, sanitized backend (the environment with its preloaded libasan is inherited).
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d .* (?:INFO|WARNING|ERROR) ")


def wait_for(what: str, ready: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `ready()`."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = ready()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not happen in {deadline_s} s"
        os.sched_yield()


@dataclass(frozen=True)
class Census:
    """What a process holds that a client might make it leak."""

    fds: tuple[str, ...]
    guest_maps: int
    address_space: int

    def __sub__(self, before: "Census") -> "Growth":
        return Growth(
            tuple(sorted(set(self.fds) - set(before.fds))),
            self.guest_maps - before.guest_maps,
            self.address_space - before.address_space,
        )


@dataclass(frozen=True)
class Growth:
    """What one census has more than another."""

    fds: tuple[str, ...]
    guest_maps: int
    address_space: int

    @property
    def is_none(self) -> bool:
        """The heap may grow a little; a leaked window of guest memory is 256 GiB."""
        return not self.fds and self.guest_maps <= 0 and self.address_space < 1 << 30


class BackendProcess:
    """One `emuiavf run` from construction until `stop`."""

    def __init__(self, folder: Path, arguments: Sequence[str], prefix: Sequence[str] = ()) -> None:
        self.log_path = folder / "backend.log"
        ready, ready_child = os.pipe()
        command = [*prefix, sys.executable, "-m", "emuiavf", "run", *arguments]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(ready_child)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                pass_fds=(ready_child,),
            )
        os.close(ready_child)
        with open(ready, "rb") as file:
            assert file.read() == b"\n", f"the backend does not start:\n{self.log}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def lines(self) -> int:
        """Log lines so far."""
        return sum(1 for line in self.log.splitlines() if LOG_LINE.match(line))

    def census(self) -> Census:
        """Descriptors by number and kind, mappings of guests' files, size of the address space."""
        fds = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                fds.append(f"{entry.name} {os.readlink(entry)}")
            except FileNotFoundError:
                continue
        maps = Path(f"/proc/{self.pid}/maps").read_text()
        status = Path(f"/proc/{self.pid}/status").read_text()
        size = re.search(r"^VmSize:\s+(\d+) kB", status, re.M)
        assert size is not None
        return Census(tuple(fds), len(re.findall("guest|hostile-", maps)), int(size[1]) << 10)

    def stop(self) -> None:
        """SIGTERM; the process must end by itself, without a complaint of a sanitizer."""
        if self.is_alive:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert code == 0, f"the backend ended with {code}:\n{self.log[-8000:]}"
        assert "Traceback" not in self.log, self.log[-8000:]
