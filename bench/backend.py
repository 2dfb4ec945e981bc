"""A backend in a process of its own, as users run it: `emuiavf run` until the bench is done."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 10


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number + 1:02x}"


@contextmanager
def serving(
    devices: int, *, connect: bool = True, cpus: Sequence[int] = (), idle: str = "busy"
) -> Iterator[list[str]]:
    """Serve VFs, joined with each other or one with itself; yields their sockets.

    One worker per CPU of `cpus`, one without.  RuntimeError when the backend fails to start.
    """
    with tempfile.TemporaryDirectory(prefix="emuiavf-bench-") as folder:
        names = [f"emu_iavf{number}" for number in range(devices)]
        paths = [str(Path(folder, f"{name}.sock")) for name in names]
        ready, told = os.pipe()
        command = [sys.executable, "-m", "emuiavf", "run", "--idle", idle]
        command += ["--log-level", "warning", "--ready-fd", str(told)]
        command += ["--workers", str(len(cpus) or 1), "--cpus", ",".join(map(str, cpus))]
        for number, (name, path) in enumerate(zip(names, paths, strict=True)):
            command += ["--vdev", f"{name},path={path},mac={mac(number)}"]
        if connect:
            command += ["--connect", ",".join(names)]
        process = subprocess.Popen(
            command, cwd=ROOT, pass_fds=(told,), stdout=subprocess.DEVNULL, env=os.environ.copy()
        )
        os.close(told)
        try:
            if os.read(ready, 1) != b"\n":
                raise RuntimeError(f"the backend ended with {process.wait(STOP_S)}")
            yield paths
        finally:
            os.close(ready)
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)
