"""`emuiavf run` as a process of its own, and what one can see of it from outside."""

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from emuiavf.cli import main
from tests.vm.harness import asked

ROOT = Path(__file__).resolve().parents[3]


def vfio_user_device(path: Path, **properties: object) -> list[str]:
    """QEMU arguments that plug the device served at a socket."""
    device = {
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": str(path)},
        **{key.replace("_", "-"): value for key, value in properties.items()},
    }
    return ["-device", json.dumps(device)]


def control(socket: Path, verb: str, *args: str) -> str:
    """`emuiavf VERB ARGS` to the process with this control socket; returns what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([verb, "--control", str(socket), *args])
    assert code == 0, err.getvalue()
    return out.getvalue()


class Place(Protocol):
    """A network namespace, or another user."""

    def command(self) -> list[str]:
        """The words before those of a program that is to run there."""


class BackendProcess:
    """Serves until the block ends; its messages go to `log`.

    `arguments` are those of `emuiavf run`.  With a place it runs there, and its TAPs are made
    there.
    """

    def __init__(self, arguments: Sequence[str], log: Path, place: Place | None = None) -> None:
        self.arguments = list(arguments)
        self.log = log
        self.place = place
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 20) -> None:
        """Returns when the backend has said that it is ready."""
        reader, writer = os.pipe()
        command = self.place.command() if self.place else []
        command += [sys.executable, "-m", "emuiavf", "run", "--ready-fd", str(writer)]
        command += self.arguments
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[writer],
                )
            os.close(writer)
            if not select.select([reader], [], [], timeout_s)[0] or not os.read(reader, 64):
                raise RuntimeError(f"emuiavf run did not get ready:\n{self.said()}")
            asked.began(self)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(reader)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stats(self, name: str) -> dict[str, Any]:
        """`emuiavf stats --json NAME`: the counters of one device or port."""
        # Other processes may serve a device of this name.
        done = subprocess.run(
            [sys.executable, "-m", "emuiavf", "stats", "--json", f"{self.pid}-{name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if len(found) == 1:
            (found,) = found.values()
        assert isinstance(found, dict), done.stdout
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, timeout_s: float = 10) -> int:
        """SIGTERM, as a service manager would; returns the exit status."""
        if self.process is None:
            return 0
        asked.ends(self)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if kind:
            sys.stderr.write(self.said())


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    """Poll a condition that nothing announces, with a deadline."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)
