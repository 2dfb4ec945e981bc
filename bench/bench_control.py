"""What a client waits for: register reads, DMA maps, bring-up; idle and with every core taken.

QEMU holds its global lock while it waits for each of these answers, so the worst one counts.
"""

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.backend import serving
from emuiavf.datapath._limit import echo, time_round_trips
from emuiavf.guest.driver import VfDriver
from emuiavf.iavf import regs
from emuiavf.vfio_user.client import Client
from emuiavf.vfio_user.wire import Command, Header, RegionAccess, RegionIndex

MAP_SIZE = 2 << 20
IOVA = 1 << 32
ECHO_TURNS = 10
MEANING = {
    "read_us": "REGION_READ of 4 bytes, there and back, median",
    "read_p99_us": "99% of them within",
    "read_max_us": "the slowest",
    "map_us": "DMA_MAP of 2 MiB and its DMA_UNMAP, median of the pairs",
    "map_p99_us": "99% of them within",
    "map_max_us": "the slowest",
    "maps_per_s": "pipelined DMA_MAPs per second, none unmapped",
    "bring_up_ms": "from connect to running queues, median",
    "c_read_us": "REGION_READ for a client in C, a busy worker on the last core, median",
    "c_echo_us": "a socket whose other end, in C, only answers; taking turns with c_read_us",
    "vs_echo": "c_read_us over c_echo_us",
} | {
    f"busy_{key}_us": f"{words} with a busy worker on every core"
    for key, words in (
        ("read", "REGION_READ, median"),
        ("read_p99", "REGION_READ, 99%"),
        ("read_max", "REGION_READ, slowest"),
        ("map", "map and unmap, median"),
        ("map_p99", "map and unmap, 99%"),
        ("map_max", "map and unmap, slowest"),
    )
}


def spread(name: str, call: Callable[[], None], count: int) -> report.Results:
    """Median, 99% and slowest of `count` calls, in us."""
    took = []
    for _ in range(count):
        began = time.perf_counter_ns()
        call()
        took.append((time.perf_counter_ns() - began) / 1000)
    took.sort()
    return {
        f"{name}_us": statistics.median(took),
        f"{name}_p99_us": took[count * 99 // 100],
        f"{name}_max_us": took[-1],
    }


def time_answers(client: Client, reads: int, maps: int) -> report.Results:
    fd = os.memfd_create("bench", os.MFD_CLOEXEC)
    os.ftruncate(fd, MAP_SIZE)

    def read() -> None:
        client.read32(RegionIndex.BAR0, regs.VFGEN_RSTAT.offset)

    def map_and_unmap() -> None:
        client.dma_map(IOVA, MAP_SIZE, fd)
        client.dma_unmap(IOVA, MAP_SIZE)

    try:
        return spread("read", read, reads) | spread("map", map_and_unmap, maps)
    finally:
        os.close(fd)


def time_maps(client: Client, count: int) -> float:
    """Pipelined DMA_MAPs per second: neighbours that each come with an fd, as hugepages do."""
    fd = os.memfd_create("bench", os.MFD_CLOEXEC)
    os.ftruncate(fd, MAP_SIZE)
    try:
        began = time.perf_counter()
        for at in range(0, count, 32):
            pending = [
                client.submit_dma_map(IOVA + number * MAP_SIZE, MAP_SIZE, fd)
                for number in range(at, min(at + 32, count))
            ]
            for one in pending:
                one.wait()
        return count / (time.perf_counter() - began)
    finally:
        client.dma_unmap_all()
        os.close(fd)


def time_bring_up(path: str, count: int) -> float:
    """Median milliseconds from connect to running queues."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        with VfDriver(path) as vf:
            vf.start()
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


@contextmanager
def echoing(request: int, reply: bytes) -> Iterator[socket.socket]:
    """A socket whose other end, a process of its own in C, only answers."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            echo(theirs.fileno(), request, reply)
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(child, 0)


def time_against_echo(path: str, count: int) -> report.Results:
    """REGION_READ as a client in C sees it, taking turns with a socket that only answers."""
    body = RegionAccess(regs.VFGEN_RSTAT.offset, RegionIndex.BAR0, 4).encode()
    size = Header.SIZE + len(body)
    request = Header(1, Command.REGION_READ, size, 0, 0).encode() + body
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    took: dict[str, list[int]] = {"read": [], "echo": []}
    with Client(sock), echoing(size, bytes(size + 4)) as other:
        sock.setblocking(True)
        for _ in range(ECHO_TURNS):
            for name, one in (("read", sock), ("echo", other)):
                turn = time_round_trips(one.fileno(), request, size + 4, count // ECHO_TURNS)
                took[name] += turn
    read, answer = (statistics.median(took[name]) / 1000 for name in ("read", "echo"))
    return {"c_read_us": read, "c_echo_us": answer, "vs_echo": read / answer}


def run(args: argparse.Namespace) -> report.Results:
    with serving(1, idle="adaptive") as (path,):
        with Client(path) as client:
            results = time_answers(client, args.reads, args.maps)
            results["maps_per_s"] = time_maps(client, args.maps)
        results["bring_up_ms"] = time_bring_up(path, args.bring_ups)
    with serving(1, cpus=[max(os.sched_getaffinity(0))]) as (path,):
        results |= time_against_echo(path, args.reads)
    with serving(1, cpus=sorted(os.sched_getaffinity(0))) as (path,), Client(path) as client:
        for key, value in time_answers(client, args.reads, args.maps).items():
            results[f"busy_{key}"] = value
    return results


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--maps", type=int, default=1_000)
    parser.add_argument("--bring-ups", type=int, default=10)


def main() -> None:
    parser = report.parser(__doc__)
    arguments(parser)
    args = parser.parse_args()
    report.show("control", run(args), MEANING, args.json)


if __name__ == "__main__":
    main()
