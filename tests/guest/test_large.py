"""Our driver on VFs with up to 256 queue pairs, and single pairs that stop under traffic."""

import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from emuiavf.app import Backend
from emuiavf.guest._traffic import Traffic
from emuiavf.guest.channel import RequestRefused
from emuiavf.guest.driver import WANTED_CAPS, VfDriver
from emuiavf.guest.pair import Pair, flows_between
from emuiavf.stats import named, open_segment
from emuiavf.virtchnl.ops import Cap, Op
from tests.guest.test_e2e import DEADLINE_S, MACS, exchange, packet, receive, stack, until

__all__ = ["stack"]
DOORBELLS = ["mapped", "trap", "shared"]
PLAIN = WANTED_CAPS & ~Cap.LARGE_NUM_QPAIRS

Make = Callable[..., "Bench"]


class Bench:
    """Two devices on one connection."""

    def __init__(self, folder: Path, stack: ExitStack, options: str, workers: int) -> None:
        self._stack = stack
        self.backend = stack.enter_context(Backend(workers))
        self.paths = [str(folder / f"{number}.sock") for number in range(2)]
        for number, path in enumerate(self.paths):
            self.backend.add_device(f"emu_iavf{number},path={path},mac={MACS[number]},{options}")
        self.backend.connect("emu_iavf0", "emu_iavf1")
        self.backend.start()

    def driver(self, number: int, caps: Cap = WANTED_CAPS) -> VfDriver:
        return self._stack.enter_context(VfDriver(self.paths[number], caps=caps))

    def start(self, pairs: int, **how: int) -> tuple[VfDriver, VfDriver]:
        drivers = self.driver(0), self.driver(1)
        for vf in drivers:
            vf.start(pairs, **{"ring_len": 64, "buf_size": 512, **how})
        return drivers

    def answered(self, number: int = 0) -> dict[str, int]:
        """What a driver has asked so far."""
        host = self.backend._hosts()[f"emu_iavf{number}"]
        return dict(host.view.answered)


@pytest.fixture
def make(tmp_path: Path, stack: ExitStack) -> Make:
    return lambda options, workers=1: Bench(tmp_path, stack, options, workers)


def assert_clean(pair: Pair) -> None:
    assert pair.traffic.drain(DEADLINE_S)
    for flow in range(pair.num_flows):
        one = pair.traffic.counters(flow)
        faults = [one[f] for f in ("lost", "reordered", "corrupted", "misdirected", "in_flight")]
        assert one["received"], flow
        assert not any(faults), (flow, one)


@pytest.mark.parametrize("doorbell", DOORBELLS)
def test_40_pairs_in_every_doorbell_mode(make: Make, doorbell: str) -> None:
    bench = make(f"queues=40,doorbell={doorbell}", workers=2)
    pair = Pair(*bench.start(40))
    assert pair.num_flows == 80
    exchange(pair, 40)
    assert_clean(pair)
    counters = named(open_segment(f"{os.getpid()}-emu_iavf1"))
    assert all(counters[f"rx-{queue}.packets"] >= 40 for queue in range(40))
    assert all(counters[f"tx-{queue}.packets"] >= 40 for queue in range(40))
    asked = bench.answered()
    assert {"ENABLE_QUEUES_V2": 1, "MAP_QUEUE_VECTOR": 1}.items() <= asked.items()
    assert not {"ENABLE_QUEUES", "CONFIG_IRQ_MAP"} & asked.keys()


def test_256_pairs_are_requested_and_move_frames(make: Make) -> None:
    bench = make("queues=4,max-queues=256", workers=2)
    first, second = bench.start(256, buf_size=256)
    assert first.resources.num_queue_pairs == 256
    pair = Pair(first, second)
    assert pair.num_flows == 512
    exchange(pair, 4)
    assert_clean(pair)
    counters = named(open_segment(f"{os.getpid()}-emu_iavf0"))
    assert counters["rx-255.packets"] >= 4
    first.stop()
    second.stop()
    first.start(1)
    second.start(1)
    first.queues[0].send([bytes(packet(0, 1))])
    assert len(receive(second, 1)) == 1


def test_a_driver_that_cannot_name_them_uses_16(make: Make) -> None:
    bench = make("queues=64")
    first, second = bench.driver(0, PLAIN), bench.driver(1, PLAIN)
    assert first.resources.num_queue_pairs == 16
    assert (first.resources.max_vectors, first.resources.rss_lut_size) == (65, 64)
    for vf in (first, second):
        vf.start(16, ring_len=64, buf_size=512)
    pair = Pair(first, second)
    exchange(pair, 20)
    assert_clean(pair)
    with pytest.raises(RequestRefused, match="ENABLE_QUEUES_V2: refused with NOT_SUPPORTED"):
        first.channel.request_raw(Op.ENABLE_QUEUES_V2, bytes(16))


def test_a_large_vf_starts_anew_after_every_reset(make: Make) -> None:
    bench = make("queues=33")
    first, second = bench.start(33)
    for reset in (first.reset, second.function_reset, first.reset):
        reset()
        pair = Pair(first, second)
        exchange(pair, 10)
        assert_clean(pair)


@pytest.mark.parametrize("vectors", [65, 17, 2])
def test_queues_beyond_the_vectors_share_them(make: Make, vectors: int) -> None:
    bench = make(f"queues=100,vectors={vectors}")
    first, second = bench.start(100, interrupts=True)
    assert second.resources.max_vectors == vectors
    flows = flows_between(first, second)
    for queue in (0, 16, 63, 64, 99):
        assert until(lambda: not second.wait([queue], 0))  # noqa: B023 (used at once)
        traffic = Traffic(flows[queue : queue + 1])
        traffic.run(0.01)
        assert second.wait([queue], DEADLINE_S) == [queue]
        assert traffic.drain(DEADLINE_S)


# Single pairs


class Others:
    """Traffic on all pairs but one and queue 0, both ways, by a thread of its own."""

    def __init__(self, first: VfDriver, second: VfDriver, victim: int) -> None:
        there, back = flows_between(first, second, 200), flows_between(second, first, 200)
        self.victim_flow = there[victim]
        flows = [way[i] for way in (there, back) for i in range(len(way)) if i not in (0, victim)]
        self.traffic = Traffic(flows, window=24)
        self.num_flows = len(flows)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            self.traffic.run(0.005)

    def __enter__(self) -> "Others":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def received(self) -> list[int]:
        return [self.traffic.counters(flow)["received"] for flow in range(self.num_flows)]

    def go_on(self) -> bool:
        """Whether each of them has received more than a moment ago."""
        before = self.received()
        return until(
            lambda: all(now > old for now, old in zip(self.received(), before, strict=True))
        )

    def assert_whole(self) -> None:
        assert self.traffic.drain(DEADLINE_S)
        for flow in range(self.num_flows):
            one = self.traffic.counters(flow)
            faults = ("lost", "reordered", "corrupted", "misdirected", "in_flight")
            assert not any(one[fault] for fault in faults), (flow, one)


def arrive(vf: VfDriver, queue: int, frames: list[bytes]) -> bool:
    """Whether exactly these frames come, in their order, on this queue."""
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(frame.data for frame in vf.queues[queue].receive())
        return len(found) >= len(frames)

    return until(enough) and found == frames


@pytest.mark.parametrize("doorbell", ["mapped", "shared"])
@pytest.mark.parametrize(("pairs", "victim"), [(4, 2), (24, 20)])
def test_a_pair_stops_and_starts_while_the_others_carry_traffic(
    make: Make, doorbell: str, pairs: int, victim: int
) -> None:
    first, second = make(f"queues={pairs},doorbell={doorbell}", workers=2).start(pairs)
    rng = random.Random(pairs)
    with Others(first, second, victim) as others:
        frames = [others.victim_flow.header + bytes([i] * 40) for i in range(20)]
        for _ in range(12):
            assert first.queues[victim].send(frames) == len(frames)
            assert arrive(second, victim, frames)
            second.stop_queue(victim)
            assert first.queues[victim].send(frames) == len(frames)
            # What is for a queue that is stopped goes to queue 0.
            assert arrive(second, 0, frames)
            first.stop_queue(victim)
            assert others.go_on()
            first.start_queue(victim, ring_len=rng.choice([0, 64, 96, 256]))
            second.start_queue(victim, ring_len=rng.choice([0, 64, 160, 512]))
        assert first.queues[victim].send(frames) == len(frames)
        assert arrive(second, victim, frames)
        assert others.go_on()
    others.assert_whole()


def test_what_a_stopped_pair_had_not_sent_is_not_sent_later(make: Make) -> None:
    first, second = make("queues=4,doorbell=trap").start(4)
    frame = bytes(packet(0, 1))
    first.stop_queue(1)
    assert first.queues[1].send([frame] * 5) == 5
    first.queues[0].send([frame])
    assert len(receive(second, 1)) == 1
    first.start_queue(1)
    first.queues[1].send([frame])
    assert len(receive(second, 1)) == 1
    first.queues[2].send([frame])
    assert len(receive(second, 1)) == 1


def test_a_running_pair_that_is_configured_again_stops_first(make: Make) -> None:
    """Its packets are gone, others' are not; it runs again when it is enabled."""
    first, second = make("queues=20").start(20)
    frame = bytes(packet(0, 1))
    requests = first._requests
    requests.configure([first.queues[18]], 1500)
    assert first.queues[18].send([frame]) == 1
    first.queues[17].send([frame])
    assert len(receive(second, 1)) == 1
    first.queues[18].rewind()
    requests.enable([18], [18])
    first.queues[18].send([frame])
    assert len(receive(second, 1)) == 1
