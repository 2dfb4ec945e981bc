"""Many devices in one process: how long they take to start, and what an idle one keeps.

`up`: our driver has brought the device up (queues enabled, memory mapped) and is idle.  What the
first device costs, the interpreter and its libraries, is left out: it is paid once.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.backend import mac, running
from emuiavf.guest.driver import VfDriver

MEANING = {
    "start_s": "from the command to serving all devices",
    "start_one_s": "the same with one device",
    "idle_mib": "resident memory of each device beyond the first, nobody connected",
    "up_mib": "the same, a driver up on each",
    "threads": "of the process",
    "fds": "open in the process for each device, a driver up",
}
MAX_START_S = 5.0
MAX_IDLE_MIB = 2.0


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def vdevs(folder: str, count: int) -> list[str]:
    return [
        f"emu_iavf{number},path={folder}/{number}.sock,mac={mac(number)}" for number in range(count)
    ]


def measure(count: int) -> tuple[float, float, float, int, int]:
    """Start time, resident memory idle and up, threads and fds of a process with such devices."""
    with tempfile.TemporaryDirectory(prefix="emuiavf-bench-") as folder:
        began = time.perf_counter()
        with running(vdevs(folder, count), [], idle="adaptive") as process, ExitStack() as stack:
            took = time.perf_counter() - began
            idle = resident_mib(process.pid)
            for number in range(count):
                vf = stack.enter_context(VfDriver(f"{folder}/{number}.sock"))
                vf.start()
            up = resident_mib(process.pid)
            threads, fds = (
                len(os.listdir(f"/proc/{process.pid}/{kind}")) for kind in ("task", "fd")
            )
    return took, idle, up, threads, fds


def run(args: argparse.Namespace) -> report.Results:
    one, many = measure(1), measure(args.devices)
    more = args.devices - 1
    return {
        "start_s": many[0],
        "start_one_s": one[0],
        "idle_mib": (many[1] - one[1]) / more,
        "up_mib": (many[2] - one[2]) / more,
        "threads": many[3],
        "fds": (many[4] - one[4]) / more,
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=64)


if __name__ == "__main__":
    report.main("many", __doc__, arguments, run, MEANING)
