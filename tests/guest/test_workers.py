"""Queue pairs of two guests on one to four workers, and queues that change hands under traffic."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emuiavf.app import Backend
from emuiavf.errors import ConfigError
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.pair import Pair
from tests.guest.test_e2e import DEADLINE_S, MACS, exchange

QUEUES = 4


class Bench:
    def __init__(self, folder: Path, stack: ExitStack, workers: int, idle: str) -> None:
        self.backend = stack.enter_context(Backend(workers, idle=idle))
        paths = [str(folder / f"{number}.sock") for number in range(2)]
        for number, path in enumerate(paths):
            options = f"path={path},mac={MACS[number]},queues={QUEUES}"
            self.backend.add_device(f"emu_iavf{number},{options}")
        self.backend.connect("emu_iavf0", "emu_iavf1")
        self.backend.start()
        self.drivers = [stack.enter_context(VfDriver(path)) for path in paths]
        for driver in self.drivers:
            driver.start(QUEUES, ring_len=128)
        self.pair = Pair(*self.drivers, size=200)

    def place(self, device: int, queue: int, worker: int) -> None:
        backend = self.backend
        endpoint = backend._endpoint(f"emu_iavf{device}")
        backend._on_control(lambda: backend.engine.place(endpoint, queue, worker))

    def all_is_well(self) -> bool:
        """Nothing lost, overtaken or damaged in any flow, and a flow is a queue."""
        drained = self.pair.traffic.drain(DEADLINE_S)
        counters = [self.pair.traffic.counters(flow) for flow in range(self.pair.num_flows)]
        faults = ("lost", "reordered", "corrupted", "misdirected", "in_flight")
        return drained and all(
            one["received"] and not any(one[f] for f in faults) for one in counters
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_queue_pairs_spread_over_workers_keep_order(
    tmp_path: Path, stack: ExitStack, workers: int
) -> None:
    bench = Bench(tmp_path, stack, workers, "adaptive")
    assert bench.pair.num_flows == 2 * QUEUES

    exchange(bench.pair, 500)

    assert bench.all_is_well()
    assert all(turns > 0 for turns in bench.backend.engine.turns())


@pytest.mark.parametrize("idle", ["adaptive", "busy"])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_queues_that_change_workers_under_traffic_lose_nothing(
    tmp_path: Path, stack: ExitStack, workers: int, idle: str
) -> None:
    bench = Bench(tmp_path, stack, workers, idle)
    rng = random.Random(workers)
    moves = [(rng.randrange(2), rng.randrange(QUEUES), rng.randrange(workers)) for _ in range(500)]

    def move() -> None:
        for device, queue, worker in moves:
            bench.place(device, queue, worker)

    mover = threading.Thread(target=move)
    mover.start()
    while mover.is_alive():
        bench.pair.run(0.01)
    mover.join()
    exchange(bench.pair, 100)

    assert bench.all_is_well()


def test_queue_with_all_others_on_one_worker_is_still_served(
    tmp_path: Path, stack: ExitStack
) -> None:
    bench = Bench(tmp_path, stack, 2, "adaptive")
    for device in range(2):
        for queue in range(QUEUES):
            bench.place(device, queue, 1)

    exchange(bench.pair, 200)

    assert bench.all_is_well()


def test_interrupts_follow_a_poller_that_moved(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, stack, 2, "adaptive")
    first, second = bench.drivers
    for worker in (1, 0, 1):
        bench.place(0, 0, worker)
        bench.place(1, 0, worker)
        second.stop()
        second.start(QUEUES, ring_len=128, interrupts=True)
        first.queues[0].send([second.mac + first.mac + b"\x88\xb5" + bytes(60)])
        assert second.wait([0], DEADLINE_S) == [0]


def test_place_refuses_what_is_not_there(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, stack, 2, "adaptive")
    with pytest.raises(ConfigError, match="worker 2: there are 2"):
        bench.place(0, 0, 2)
