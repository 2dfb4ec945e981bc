"""What bench/peers.py lets run against each other: two programs on two cores that exchange frames.

The application is always a testpmd on the first CPU.  On the second one is, for a peer, another
testpmd; for us, the worker of `emuiavf run`.  A contender that is not measured is stopped
(SIGSTOP), so that all of one case can be up at the same time and take turns.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import backend
from bench.dpdk import Testpmd
from bench.limit import WHOLE, Window
from bench.testpmd import Process, Rates
from emuiavf.stats import SegmentId, SegmentView

RX_PACKETS = 6
FIRST_ADDRESS = 0x3F


@dataclass(frozen=True)
class Case:
    """`app` and `back` are testpmd's forwarding modes of the two sides.

    `bursts` of 32 frames are in flight on each of the application's ports; `at_back`: the frames
    are counted where they end, on the other side.
    """

    words: str
    app: str
    back: str
    size: int = 64
    ports: int = 1
    bursts: int = 4
    at_back: bool = False


@dataclass(frozen=True)
class Place:
    """Where contenders run: the program, a CPU for each side, a folder for sockets."""

    testpmd: Testpmd
    app_cpu: int
    back_cpu: int
    folder: Path
    huge: bool = True

    @property
    def env(self) -> dict[str, str]:
        """For what programs leave behind when they are killed: it goes with the folder."""
        return {"RUNTIME_DIRECTORY": str(self.folder), "TMPDIR": str(self.folder)}


class Contender:
    """Two sides that forward, and how their frames are counted.

    `restart` puts new frames in flight: in-order rings of DPDK lose theirs now and then.
    Ours has none: should it ever stand still, that is to be seen.
    """

    def __init__(
        self,
        pids: Sequence[int],
        signal_all: Callable[[int], None],
        count: Callable[[float], float],
        restart: Callable[[], None] | None = None,
    ) -> None:
        self.restart = restart
        self._pids = pids
        self._signal = signal_all
        self._count = count

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def measure(self, seconds: float) -> Window:
        """Million frames per second over about so long."""
        before = [busiest_ns(pid) for pid in self._pids]
        began = time.perf_counter_ns()
        frames_per_s = self._count(seconds)
        took = time.perf_counter_ns() - began
        after = [busiest_ns(pid) for pid in self._pids]
        whole = all(end - start > WHOLE * took for start, end in zip(before, after, strict=True))
        return Window(frames_per_s / 1e6, whole)


def busiest_ns(pid: int) -> int:
    """CPU time of the busiest thread of a process and its children."""
    times = [0]
    for task in Path(f"/proc/{pid}/task").iterdir():
        times.append(int((task / "schedstat").read_text().split()[0]))
        times += [busiest_ns(int(child)) for child in (task / "children").read_text().split()]
    return max(times)


def asked(process: Process, pick: Callable[[Rates], int]) -> Callable[[float], float]:
    """Counts by a testpmd's own clock, all its ports together."""

    def count(seconds: float) -> float:
        process.rates()
        time.sleep(seconds)
        return float(sum(pick(rates) for rates in process.rates()))

    return count


Factory = Callable[[Case, Place], AbstractContextManager[Contender]]


def dpdk(app_vdev: str, back_vdev: str) -> Factory:
    """Two testpmd joined by virtual devices; {n} is the number of a port, {path} its socket."""

    @contextmanager
    def bring_up(case: Case, place: Place) -> Iterator[Contender]:
        with ExitStack() as stack:
            sockets = [
                Path(place.folder, f"{len(list(place.folder.iterdir()))}-{n}")
                for n in range(case.ports)
            ]

            def start(vdev: str, cpu: int) -> Process:
                vdevs = [vdev.format(n=n, path=path) for n, path in enumerate(sockets)]
                return stack.enter_context(
                    Process(
                        place.testpmd,
                        cpu,
                        ports=case.ports,
                        vdevs=vdevs,
                        huge=place.huge,
                        env=place.env,
                    )
                )

            back = start(back_vdev, place.back_cpu)
            app = start(app_vdev, place.app_cpu)
            back.wait_link()
            app.wait_link()

            def start_forwarding() -> None:
                back.forward(case.back, case.size)
                app.forward(case.app, case.size, case.bursts)

            def restart() -> None:
                app.halt()
                back.halt()
                start_forwarding()

            start_forwarding()

            def signal_all(number: int) -> None:
                for process in (app, back):
                    process.signal(number)

            counted = back if case.at_back else app
            count = asked(counted, lambda rates: rates.rx)
            yield Contender([app.pid, back.pid], signal_all, count, restart)

    return bring_up


def vhost(features: str = "") -> Factory:
    app = "net_virtio_user{n},path={path},queues=1,queue_size=256" + features
    return dpdk(app, "net_vhost{n},iface={path},queues=1")


def memif(features: str = "") -> Factory:
    common = "net_memif{n},role=%s,id={n},bsize=2048,rsize=10,socket={path},socket-abstract=no"
    return dpdk(common % "client" + features, common % "server")


# What the worker's other side is, where it is not the VF itself or another VF.
SINK = "sink0,type=null"
SOURCE = "gen0,type=gen,size={size}"


@contextmanager
def ours(case: Case, place: Place) -> Iterator[Contender]:
    """An unmodified testpmd with net_iavf, through `emuiavf exec`."""
    names = [f"emu_iavf{n}" for n in range(case.ports)]
    paths = [str(Path(place.folder, f"{name}-{case.app}-{case.size}")) for name in names]
    vdevs = [
        f"{name},path={path},mac={backend.mac(n)},doorbell=shared"
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    ports = {"rxonly": [SINK], "txonly": [SOURCE.format(size=case.size)]}.get(case.back, [])
    ends = names + [port.partition(",")[0] for port in ports]
    addresses = [f"0000:{FIRST_ADDRESS:02x}:{n:02x}.0" for n in range(case.ports)]
    before = [sys.executable, "-m", "emuiavf", "exec"]
    options: list[str] = []
    for path, address in zip(paths, addresses, strict=True):
        before += ["--device", f"path={path},addr={address}"]
        options += ["-a", address]
    with ExitStack() as stack:
        engine = stack.enter_context(
            backend.running(vdevs, [",".join(ends)], ports=ports, cpus=[place.back_cpu])
        )
        app = stack.enter_context(
            Process(
                place.testpmd,
                place.app_cpu,
                ports=case.ports,
                before=[*before, "--"],
                options=options,
                huge=place.huge,
                ring_len=512,
                env=place.env | {"PYTHONPATH": str(backend.ROOT)},
            )
        )
        app.wait_link()
        app.forward(case.app, case.size, case.bursts)

        def signal_all(number: int) -> None:
            app.signal(number)
            os.kill(engine.pid, number)

        count = asked(app, lambda rates: rates.rx)
        if case.at_back:
            view = SegmentView(SegmentId(engine.pid, "sink0"))
            row = view.row("from_guest-0")

            def count(seconds: float) -> float:
                began, frames = time.perf_counter(), int(view.rows[row, RX_PACKETS])
                time.sleep(seconds)
                moved = int(view.rows[row, RX_PACKETS]) - frames
                return moved / (time.perf_counter() - began)

        yield Contender([app.pid, engine.pid], signal_all, count)


VHOST = {
    "vhost split": vhost(),
    "vhost in-order": vhost(",in_order=1,mrg_rxbuf=0"),
    "vhost packed": vhost(",packed_vq=1,in_order=1,mrg_rxbuf=0,vectorized=1"),
}
MEMIF = {"memif": memif(), "memif zero-copy": memif(",zero-copy=yes")}
OURS = {"emuiavf": ours}
