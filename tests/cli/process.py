"""`emuiavf run` as a child process."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.fakes.scratch_main"]
TIMEOUT_S = 30


def emuiavf(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *args], capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT_S
    )


class Running:
    """`emuiavf run` with these arguments, ready to serve; killed at the end if still there."""

    def __init__(self, *args: str, pass_fds: tuple[int, ...] = ()) -> None:
        ready, theirs = os.pipe()
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--ready-fd", str(theirs), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            pass_fds=(theirs, *pass_fds),
        )
        os.close(theirs)
        assert select.select([ready], [], [], TIMEOUT_S)[0], "not ready in time"
        self.ready = os.read(ready, 16) + os.read(ready, 16)
        os.close(ready)
        self.pid = self.process.pid

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; exit code, stdout, stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
