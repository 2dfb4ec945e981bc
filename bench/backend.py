"""A backend in a process of its own, as users run it: `emuiavf run` until the bench is done."""

import ctypes
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
PR_SET_PDEATHSIG = 1


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number + 1:02x}"


def die_with_parent() -> None:
    """For the child of a fork: it does not outlive the bench, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def running(
    vdevs: Sequence[str],
    connections: Sequence[str],
    *,
    ports: Sequence[str] = (),
    cpus: Sequence[int] = (),
    idle: str = "busy",
) -> Iterator[subprocess.Popen[bytes]]:
    """`emuiavf run` with these options, from when it serves; one worker per CPU of `cpus`, one
    without.  RuntimeError when it fails to start."""
    ready, told = os.pipe()
    command = [sys.executable, "-m", "emuiavf", "run", "--idle", idle]
    command += ["--log-level", "warning", "--ready-fd", str(told)]
    command += ["--workers", str(len(cpus) or 1), "--cpus", ",".join(map(str, cpus))]
    for option, values in (("--vdev", vdevs), ("--port", ports), ("--connect", connections)):
        for value in values:
            command += [option, value]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        pass_fds=(told,),
        stdout=subprocess.DEVNULL,
        env=os.environ.copy(),
        preexec_fn=die_with_parent,
    )
    os.close(told)
    try:
        if os.read(ready, 1) != b"\n":
            raise RuntimeError(f"the backend ended with {process.wait(STOP_S)}")
        yield process
    finally:
        os.close(ready)
        # It may be stopped.
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)


@contextmanager
def serving(
    devices: int, *, connect: bool = True, cpus: Sequence[int] = (), idle: str = "busy"
) -> Iterator[list[str]]:
    """Serve VFs, joined with each other or one with itself; yields their sockets."""
    with tempfile.TemporaryDirectory(prefix="emuiavf-bench-") as folder:
        names = [f"emu_iavf{number}" for number in range(devices)]
        paths = [str(Path(folder, f"{name}.sock")) for name in names]
        vdevs = [
            f"{name},path={path},mac={mac(number)}"
            for number, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
        with running(vdevs, [",".join(names)] if connect else [], cpus=cpus, idle=idle):
            yield paths
