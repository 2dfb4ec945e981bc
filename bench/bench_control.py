"""What a client waits for: register reads, DMA maps, bring-up; idle and with every core taken.

QEMU holds its global lock while it waits for each of these answers, so the worst one counts.
--libvfio-user takes turns with a sample server of that library, in C, where somebody has built it.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.backend import die_with_parent, serving
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
# With --libvfio-user.
AGAINST_LIBRARY = {
    "c_config_us": "REGION_READ of 4 bytes of configuration space, otherwise as c_read_us",
    "c_library_us": "the same of libvfio-user's server; taking turns with c_config_us",
    "vs_library": "c_config_us over c_library_us",
}
START_S = 10.0


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


@contextmanager
def library_server(program: Path) -> Iterator[socket.socket]:
    """A sample server of libvfio-user, run as PROGRAM SOCKET; yields a connection to it."""
    with tempfile.TemporaryDirectory(prefix="emuiavf-bench-") as folder:
        path = Path(folder, "library.sock")
        process = subprocess.Popen(
            [program, path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        try:
            deadline = time.monotonic() + START_S
            while (sock := dial(path)) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{program} does not serve {path}")
                time.sleep(0.01)
            yield sock
        finally:
            process.kill()
            process.wait()


def dial(path: Path) -> socket.socket | None:
    """A connection; None where nobody listens yet."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


@contextmanager
def agreed(sock: socket.socket | None) -> Iterator[socket.socket]:
    """The connection, blocking, when both ends have agreed on a version."""
    assert sock is not None
    with Client(sock):
        sock.setblocking(True)
        yield sock


def read_request(region: int, offset: int) -> bytes:
    """REGION_READ of 4 bytes."""
    body = RegionAccess(offset, region, 4).encode()
    return Header(1, Command.REGION_READ, Header.SIZE + len(body), 0, 0).encode() + body


def time_in_turns(sockets: tuple[socket.socket, ...], request: bytes, count: int) -> list[float]:
    """Median round trips of a read, in us, as a client in C sees them; the servers take turns."""
    took: list[list[int]] = [[] for _ in sockets]
    for _ in range(ECHO_TURNS):
        for sock, times in zip(sockets, took, strict=True):
            size = len(request) + 4
            times += time_round_trips(sock.fileno(), request, size, count // ECHO_TURNS)
    return [statistics.median(times) / 1000 for times in took]


def time_against_echo(path: str, count: int) -> report.Results:
    request = read_request(RegionIndex.BAR0, regs.VFGEN_RSTAT.offset)
    reply = bytes(len(request) + 4)
    with agreed(dial(Path(path))) as ours, echoing(len(request), reply) as other:
        read, answer = time_in_turns((ours, other), request, count)
    return {"c_read_us": read, "c_echo_us": answer, "vs_echo": read / answer}


def time_against_library(path: str, program: Path, count: int) -> report.Results:
    request = read_request(RegionIndex.CONFIG, 0)
    with library_server(program) as theirs, agreed(dial(Path(path))) as ours, agreed(theirs):
        read, answer = time_in_turns((ours, theirs), request, count)
    return {"c_config_us": read, "c_library_us": answer, "vs_library": read / answer}


def run(args: argparse.Namespace) -> report.Results:
    with serving(1, idle="adaptive") as (path,):
        with Client(path) as client:
            results = time_answers(client, args.reads, args.maps)
            results["maps_per_s"] = time_maps(client, args.maps)
        results["bring_up_ms"] = time_bring_up(path, args.bring_ups)
    with serving(1, cpus=[max(os.sched_getaffinity(0))]) as (path,):
        results |= time_against_echo(path, args.reads)
        if args.libvfio_user:
            results |= time_against_library(path, args.libvfio_user, args.reads)
    with serving(1, cpus=sorted(os.sched_getaffinity(0))) as (path,), Client(path) as client:
        for key, value in time_answers(client, args.reads, args.maps).items():
            results[f"busy_{key}"] = value
    return results


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--maps", type=int, default=1_000)
    parser.add_argument("--bring-ups", type=int, default=10)
    parser.add_argument(
        "--libvfio-user",
        type=Path,
        metavar="PROGRAM",
        help="its samples/gpio-pci-idio-16, or another that takes a socket",
    )


if __name__ == "__main__":
    report.main("control", __doc__, arguments, run, MEANING | AGAINST_LIBRARY)
