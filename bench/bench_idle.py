"""What an idle device costs, what its sleep adds to the next frame, and how interrupts follow ITR.

One VF connected to itself, our driver on the other CPU.  `busy`: a worker that never sleeps.
`adaptive`: the default.  `trap`: adaptive with doorbells that are messages (doorbell=trap).
The first frame is one sent after a silence, timed from before the doorbell to its arrival as a
guest that polls sees it; what a sleep adds is the difference to `busy`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import affinity, report
from bench.backend import mac, running
from bench.frames import udp4
from emuiavf.guest.driver import VfDriver
from emuiavf.iavf import regs
from emuiavf.virtchnl.messages import VectorEntry

# --idle of the worker, doorbell= of the device.
MODES = {
    "busy": ("busy", "mapped"),
    "adaptive": ("adaptive", "mapped"),
    "trap": ("adaptive", "trap"),
}
ITR_US = (500, 2000)
IN_FLIGHT = 64
ARRIVAL_S = 10.0
# Silences before a frame, ms, and by how much fewer frames are timed after each.
SILENCES = {1: 1, 10: 1, 300: 20}
MEANING = {f"{mode}_cpu_percent": f"of one core, for an idle device, {mode}" for mode in MODES}
for _mode in MODES:
    for _ms in SILENCES:
        MEANING[f"{_mode}_first_{_ms}ms_us"] = f"a frame after {_ms} ms of silence, p50, {_mode}"
        MEANING[f"{_mode}_first_{_ms}ms_p99_us"] = "99% of them within"
        if _mode != "busy":
            MEANING[f"{_mode}_added_{_ms}ms_us"] = f"p50 of {_mode} without that of busy"
    for _us in ITR_US:
        MEANING[f"{_mode}_itr_{_us}_per_s"] = f"interrupts/s under load, ITR {_us} us, {_mode}"


class Moderated(VfDriver):
    """Our driver with interrupts by ITR 0 instead of at once."""

    def _irq_map(self) -> list[VectorEntry]:
        return [replace(entry, rxitr_idx=0, txitr_idx=0) for entry in super()._irq_map()]

    def set_interval(self, interval_us: int) -> None:
        self.bar.write32(regs.itrn1(0, 1), interval_us // regs.ITR_UNIT_US)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def cpu_percent(pid: int, seconds: float) -> float:
    before, began = cpu_ns(pid), time.perf_counter_ns()
    time.sleep(seconds)
    return 100 * (cpu_ns(pid) - before) / (time.perf_counter_ns() - began)


def time_frames(vf: VfDriver, frame: bytes, silence_s: float, count: int) -> list[float]:
    """Microseconds of each of `count` frames that were sent after a silence, sorted."""
    queue, took = vf.queues[0], []
    for _ in range(count):
        time.sleep(silence_s)
        began = time.perf_counter()
        queue.send([frame])
        while not queue.receive():
            if time.perf_counter() - began > ARRIVAL_S:
                raise RuntimeError("a frame did not arrive")
        took.append((time.perf_counter() - began) * 1e6)
    return sorted(took)


def count_interrupts(vf: Moderated, frame: bytes, interval_us: int, seconds: float) -> float:
    """Interrupts per second of a guest that sends again what it received."""
    queue, interrupts = vf.queues[0], 0
    vf.set_interval(interval_us)
    queue.send([frame] * IN_FLIGHT)
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        interrupts += len(vf.wait([0], ARRIVAL_S))
        if received := queue.receive():
            queue.send([frame] * len(received))
    took = now - began
    deadline = now + ARRIVAL_S
    left = IN_FLIGHT
    while left and time.perf_counter() < deadline:
        left -= len(queue.receive())
    return interrupts / took


@contextmanager
def device(mode: str, cpu: int) -> Iterator[tuple[int, str]]:
    """The backend's process id and the socket of a device that is connected to itself."""
    idle, doorbell = MODES[mode]
    with tempfile.TemporaryDirectory(prefix="emuiavf-bench-") as folder:
        path = str(Path(folder, "vf.sock"))
        vdev = f"emu_iavf0,path={path},mac={mac(0)},doorbell={doorbell}"
        with running([vdev], ["emu_iavf0"], cpus=[cpu], idle=idle) as process:
            yield process.pid, path


def measure(mode: str, args: argparse.Namespace) -> report.Results:
    guest, worker = args.cpus
    own = bytes.fromhex(mac(0).replace(":", ""))
    frame = udp4(64, own, own)
    with device(mode, worker) as (pid, path), affinity.pinned(guest), Moderated(path) as vf:
        vf.start(interrupts=True)
        results = {}
        for silence_ms, fewer in SILENCES.items():
            count = max(1, args.frames // fewer)
            took = time_frames(vf, frame, silence_ms / 1000, count)
            results[f"first_{silence_ms}ms_us"] = statistics.median(took)
            results[f"first_{silence_ms}ms_p99_us"] = took[count * 99 // 100]
        results["cpu_percent"] = cpu_percent(pid, args.seconds)
        for interval in ITR_US:
            rate = count_interrupts(vf, frame, interval, args.seconds)
            results[f"itr_{interval}_per_s"] = rate
    return results


def run(args: argparse.Namespace) -> report.Results:
    found = {mode: measure(mode, args) for mode in MODES}
    results = {f"{mode}_{key}": value for mode, one in found.items() for key, value in one.items()}
    for key in [f"first_{silence_ms}ms_us" for silence_ms in SILENCES]:
        for mode in found.keys() - {"busy"}:
            added = key.replace("first", "added")
            results[f"{mode}_{added}"] = found[mode][key] - found["busy"][key]
    return {key: results[key] for key in MEANING}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=1.0, help="of each rate")
    parser.add_argument("--frames", type=int, default=200, help="that are timed after a silence")
    affinity.add_option(parser, "GUEST", "WORKER")


if __name__ == "__main__":
    report.main("idle", __doc__, arguments, run, MEANING)
