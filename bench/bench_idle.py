"""What an idle device costs, what its sleep adds to the next frame, and how interrupts follow ITR.

VFs connected to themselves, one worker, our driver on the other CPU.  `busy`: a worker that never
sleeps.  `adaptive`: the default.  `trap`: adaptive with doorbells that are messages.
`_8`: as many devices.  The first frame is one sent after a silence, timed from before the doorbell
to its arrival as a guest that polls sees it; what a sleep adds is the difference to `busy`.  Who
looks every 120 us adds at most 60 us every other time: `floor` is what a thread costs that does so
and nothing else, on this machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import affinity, report
from bench.backend import mac, running
from bench.frames import udp4
from emuiavf.datapath._nap_probe import bare_sleeps
from emuiavf.guest.driver import VfDriver
from emuiavf.iavf import regs
from emuiavf.virtchnl.messages import IrqMap, VectorEntry
from emuiavf.virtchnl.ops import Op


class Mode(NamedTuple):
    """--idle of the worker, doorbell= of its devices, and how many of them there are."""

    idle: str
    doorbell: str
    devices: int = 1


MODES = {
    "busy": Mode("busy", "mapped"),
    "adaptive": Mode("adaptive", "mapped"),
    "adaptive_8": Mode("adaptive", "mapped", 8),
    "trap": Mode("adaptive", "trap"),
    "trap_8": Mode("adaptive", "trap", 8),
}
# What an idle device may cost, of a core, and add to the first frame.
MAX_CPU_PERCENT = 2.0
MAX_ADDED_US = 60.0
ITR_US = (500, 2000)
IN_FLIGHT = 64
ARRIVAL_S = 10.0
# Silences before a frame, ms, and by how much fewer frames are timed after each.
SILENCES = {1: 1, 10: 1, 1000: 10}
# A worker learns what its looks cost before its own cost is counted.
SETTLED_S = 1.0
MEANING = {"floor_cpu_percent": "of one core, for bare sleeps of twice what may be added"}
for _mode, _conf in MODES.items():
    _which = f"each of {_conf.devices} idle devices" if _conf.devices > 1 else "an idle device"
    MEANING[f"{_mode}_cpu_percent"] = f"of one core, for {_which}, {_mode}"
for _mode, _conf in MODES.items():
    for _ms in SILENCES:
        MEANING[f"{_mode}_first_{_ms}ms_us"] = f"a frame after {_ms} ms of silence, p50, {_mode}"
        MEANING[f"{_mode}_first_{_ms}ms_p99_us"] = "99% of them within"
        if _mode != "busy":
            MEANING[f"{_mode}_added_{_ms}ms_us"] = f"p50 of {_mode} without that of busy"
    for _us in ITR_US if _conf.devices == 1 else ():
        MEANING[f"{_mode}_itr_{_us}_per_s"] = f"interrupts/s under load, ITR {_us} us, {_mode}"


def moderate(vf: VfDriver) -> None:
    """Interrupts of the first queue pair by ITR 0 instead of at once."""
    entry = VectorEntry(vf.resources.vsi_id, 1, rxq_map=1, txq_map=1, rxitr_idx=0, txitr_idx=0)
    vf.channel.request(Op.CONFIG_IRQ_MAP, IrqMap(), [entry])


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


def count_interrupts(vf: VfDriver, frame: bytes, interval_us: int, seconds: float) -> float:
    """Interrupts per second of a guest that sends again what it received."""
    queue, interrupts = vf.queues[0], 0
    vf.bar.write32(regs.itrn1(0, 1), interval_us // regs.ITR_UNIT_US)
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
def devices(mode: Mode, cpu: int) -> Iterator[tuple[int, list[str]]]:
    """The backend's process id and the sockets of devices that are connected to themselves."""
    names = [f"emu_iavf{number}" for number in range(mode.devices)]
    with tempfile.TemporaryDirectory(prefix="emuiavf-bench-") as folder:
        paths = [str(Path(folder, f"{name}.sock")) for name in names]
        vdevs = [
            f"{name},path={path},mac={mac(number)},doorbell={mode.doorbell}"
            for number, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
        with running(vdevs, names, cpus=[cpu], idle=mode.idle) as process:
            yield process.pid, paths


def measure(mode: Mode, args: argparse.Namespace) -> report.Results:
    guest, worker = args.cpus
    own = bytes.fromhex(mac(0).replace(":", ""))
    frame = udp4(64, own, own)
    results = {}
    with ExitStack() as stack:
        pid, paths = stack.enter_context(devices(mode, worker))
        stack.enter_context(affinity.pinned(guest))
        vfs = [stack.enter_context(VfDriver(path)) for path in paths]
        for vf in vfs:
            vf.start(interrupts=True)
        vf = vfs[0]
        for silence_ms, fewer in SILENCES.items():
            count = max(1, args.frames // fewer)
            took = time_frames(vf, frame, silence_ms / 1000, count)
            results[f"first_{silence_ms}ms_us"] = statistics.median(took)
            results[f"first_{silence_ms}ms_p99_us"] = took[count * 99 // 100]
        time.sleep(SETTLED_S)
        results["cpu_percent"] = cpu_percent(pid, args.seconds) / mode.devices
        if mode.devices == 1:
            moderate(vf)
            for interval in ITR_US:
                rate = count_interrupts(vf, frame, interval, args.seconds)
                results[f"itr_{interval}_per_s"] = rate
    return results


def floor_percent(cpu: int, seconds: float) -> float:
    """What sleeps that add no more than they may cost by themselves."""

    def sleep() -> float:
        with affinity.pinned(cpu):
            return bare_sleeps(int(2 * MAX_ADDED_US * 1000), int(seconds * 1e9))

    # In a thread of its own: the timers of who has slept so stay exact.
    with ThreadPoolExecutor(1) as pool:
        return 100 * pool.submit(sleep).result()


def run(args: argparse.Namespace) -> report.Results:
    found = {name: measure(mode, args) for name, mode in MODES.items()}
    results = {f"{mode}_{key}": value for mode, one in found.items() for key, value in one.items()}
    for key in [f"first_{silence_ms}ms_us" for silence_ms in SILENCES]:
        for mode in found.keys() - {"busy"}:
            added = key.replace("first", "added")
            results[f"{mode}_{added}"] = found[mode][key] - found["busy"][key]
    results["floor_cpu_percent"] = floor_percent(args.cpus[1], args.seconds)
    return {key: results[key] for key in MEANING}


def verdict(results: report.Results) -> dict[str, bool]:
    """What is promised of an idle device, and whether it was kept."""
    said = {
        f"{mode}: under {MAX_CPU_PERCENT:g} % of a core for each idle device": (
            results[f"{mode}_cpu_percent"] < MAX_CPU_PERCENT
        )
        for mode in MODES
        if mode != "busy"
    }
    for mode in ("adaptive", "adaptive_8"):
        for ms in SILENCES:
            kept = results[f"{mode}_added_{ms}ms_us"] < MAX_ADDED_US
            said[f"{mode}: under {MAX_ADDED_US:g} us p50 added after {ms} ms"] = kept
    both = "floor: the machine allows both after a long silence, with one device"
    said[both] = results["floor_cpu_percent"] < MAX_CPU_PERCENT
    return said


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=1.0, help="of each rate")
    parser.add_argument("--frames", type=int, default=200, help="that are timed after a silence")
    affinity.add_option(parser, "GUEST", "WORKER")


if __name__ == "__main__":
    report.main("idle", __doc__, arguments, run, MEANING, verdict)
