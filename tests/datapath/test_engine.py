"""Running workers: what control takes away under traffic is gone when its call returns."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from emuiavf._ring import Vf
from emuiavf.datapath._nap_probe import DEVICE_PPM
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxFilter, RxQueueConfig, TxQueueConfig, VlanOffload
from emuiavf.errors import StateError
from tests import rings
from tests.rings import Driver, signalled
from tests.timing import best_of
from tests.wire import mac

DEADLINE_S = 10.0
PACKETS, QUEUE_OFF, FILTERED = 6, 9, 12
BROADCAST = b"\xff" * 6


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until something has happened; the machine may be busy."""
    tick = threading.Event()
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, what
        tick.wait(0.001)


class Flood(Driver):
    """A guest that sends one frame for ever and takes whatever comes: only its tails move.

    Descriptors ask for no report, so they stay as they are; a used Rx descriptor reads as buffer
    address 0, where there is memory.
    """

    def __init__(self, number: int, to: bytes, **kwargs: int) -> None:
        super().__init__(f"vf{number}", ring_len=128, **kwargs)
        self.vf.set_filter(RxFilter(frozenset({mac(number)})))
        data = to + mac(number) + b"\x88\xb5" + bytes([number]) * 46
        at = self.take(len(data))
        self.memory[at : at + len(data)] = data
        for queue in range(self.queues):
            for slot in range(self.ring_len):
                self.put_qwords(self.tx_ring[queue] + 16 * slot, at, 0x10 | len(data) << 34)
                self.put_qwords(
                    self.rx_ring[queue] + 32 * slot, self.rx_buffer[queue][slot], 0, 0, 0
                )
        self.enable()

    def pump(self) -> None:
        for queue in range(self.queues):
            for direction, offset in (("tx", 0), ("rx", 0x2000)):
                head = self.vf.ring_state(direction, queue)["head"]
                self.tail(offset + 4 * queue, (head - 1) % self.ring_len)

    def lay_out(self, queue: int) -> None:
        """Configure a queue pair that is off once more."""
        self.vf.configure_tx(TxQueueConfig(queue, self.ring_len, self.tx_ring[queue]))
        self.vf.configure_rx(
            RxQueueConfig(queue, self.ring_len, self.rx_ring[queue], self.buffer_size, 9728)
        )

    @property
    def received(self) -> int:
        return int(self.rows[: self.queues, PACKETS].sum())

    @property
    def sent(self) -> int:
        return int(self.rows[self.queues :, PACKETS].sum())


class Storm:
    """Guests, a running engine and a thread that moves the tails of all."""

    def __init__(self, engine: Engine, guests: list[Flood]) -> None:
        self.engine, self.guests = engine, guests
        self.over = threading.Event()
        self.pump = threading.Thread(target=self._pump)
        for guest in guests:
            engine.add(guest.vf)
        engine.connect(*[guest.vf for guest in guests])
        engine.start()
        self.pump.start()

    def _pump(self) -> None:
        while not self.over.wait(0.0001):
            for guest in self.guests:
                guest.pump()

    def flows(self) -> None:
        """Return when every guest has sent and received something new."""
        before = [(guest.sent, guest.received) for guest in self.guests]
        until(
            lambda: all(
                guest.sent > sent and guest.received > received
                for guest, (sent, received) in zip(self.guests, before, strict=True)
            ),
            "traffic stands still",
        )

    def end(self) -> None:
        self.over.set()
        self.pump.join()
        self.engine.stop()
        for guest in self.guests:
            assert guest.vf.take_faults() == []


@pytest.fixture(params=[(1, 2), (2, 2), (2, 4)], ids=lambda p: f"{p[0]} workers, {p[1]} guests")
def storm(request: pytest.FixtureRequest) -> Iterator[Storm]:
    workers, count = request.param
    to = [mac(1), mac(0)] if count == 2 else [BROADCAST] * count
    storm = Storm(
        Engine(workers, idle="busy", hold_s=0.0),
        [Flood(i, to[i], queues=2) for i in range(count)],
    )
    storm.flows()
    yield storm
    storm.end()


@pytest.mark.trap(20)
def test_no_frame_arrives_after_disable_returns(storm: Storm) -> None:
    guest = storm.guests[1]
    for _ in range(20):
        guest.vf.disable(3, 0)
        storm.engine.publish()
        guest.vf.reclaim()
        before = guest.received
        rings = [guest.memory[at : at + 32 * guest.ring_len] for at in guest.rx_ring]
        off = int(guest.rows[0, QUEUE_OFF])
        until(lambda off=off: guest.rows[0, QUEUE_OFF] > off, "nothing is sent")
        assert guest.received == before
        assert rings == [guest.memory[at : at + 32 * guest.ring_len] for at in guest.rx_ring]
        guest.vf.enable(3, 0)
        storm.engine.publish()
        guest.vf.reclaim()
        storm.flows()


def test_no_descriptor_is_taken_after_disable_returns(storm: Storm) -> None:
    guest = storm.guests[0]
    for _ in range(20):
        guest.vf.disable(0, 3)
        storm.engine.publish()
        before = (guest.sent, guest.vf.ring_state("tx", 0), guest.vf.ring_state("tx", 1))
        turns = storm.engine.turns()
        until(
            lambda turns=turns: all(
                now > then + 100 for now, then in zip(storm.engine.turns(), turns, strict=True)
            ),
            "no turns",
        )
        assert before == (guest.sent, guest.vf.ring_state("tx", 0), guest.vf.ring_state("tx", 1))
        for queue in range(2):
            guest.vf.configure_tx(TxQueueConfig(queue, guest.ring_len, guest.tx_ring[queue]))
        guest.vf.enable(0, 3)
        storm.engine.publish()
        storm.flows()


@pytest.mark.vfio_user("11.5")
def test_memory_goes_under_traffic_after_the_grace(storm: Storm) -> None:
    """The rings stand still meanwhile; others' go on.  What is unmapped may be unmapped at once."""
    guest = storm.guests[0]
    for _ in range(10):
        guest.vf.disable(3, 3)
        storm.engine.publish()
        guest.mem.unmap_all()
        storm.engine.grace()
        guest.mem.reclaim()
        guest.mem.map(0, len(guest.memory), 3, os.dup(guest.fd), 0)
        for queue in range(2):
            guest.lay_out(queue)
        guest.vf.enable(3, 3)
        storm.engine.publish()
        guest.vf.reclaim()
        storm.flows()


def test_memory_unmapped_under_running_rings_stops_them_only(storm: Storm) -> None:
    guest, others = storm.guests[0], storm.guests[1:]
    guest.mem.unmap_all()
    storm.engine.grace()
    guest.mem.reclaim()
    until(lambda: bool(signalled(guest.fault_fd)), "no fault is told")
    told = guest.vf.take_faults()
    until(lambda: told.extend(guest.vf.take_faults()) or len(told) == 3, f"faults {told}")
    # No frame is hashed: nobody looks at the second Rx ring.
    assert {told_of[:2] for told_of in told} == {("rx", 0), ("tx", 0), ("tx", 1)}
    assert {text for _, _, text in told} == {"descriptor ring is not mapped"}
    if len(others) > 1:
        before = [other.received for other in others]
        until(
            lambda: all(o.received > b for o, b in zip(others, before, strict=True)), "others stop"
        )


def test_connections_change_under_traffic(storm: Storm) -> None:
    vfs = [guest.vf for guest in storm.guests]
    for _ in range(20):
        storm.engine.disconnect(*vfs)
        before = [guest.received for guest in storm.guests]
        turns = storm.engine.turns()
        until(
            lambda turns=turns: all(
                now > then + 100 for now, then in zip(storm.engine.turns(), turns, strict=True)
            ),
            "no turns",
        )
        assert before == [guest.received for guest in storm.guests]
        storm.engine.connect(*vfs)
        storm.flows()


@pytest.mark.vfio_user("12.10.3", "12.14.3")
def test_tables_change_under_traffic_and_are_freed(storm: Storm) -> None:
    """Random changes of everything that is published; a sanitized build sees what is used late."""
    random_ = random.Random(5)
    engine = storm.engine

    def filters(guest: Flood, number: int) -> None:
        macs = frozenset(mac(i) for i in range(random_.randrange(1, 200))) | {mac(number)}
        vlans = random_.choice([None, frozenset(range(random_.randrange(200)))])
        guest.vf.set_filter(RxFilter(macs, False, bool(random_.randrange(2)), vlans))
        engine.publish()

    def tables(guest: Flood, _number: int) -> None:
        guest.vf.set_rss(
            RssConfig(random_.randbytes(52), bytes(random_.randrange(2) for _ in range(64)))
        )
        guest.vf.set_vlan(VlanOffload(strip=bool(random_.randrange(2))))
        engine.grace()

    def memory(guest: Flood, number: int) -> None:
        at = (1 + number + random_.randrange(8)) << 30
        guest.mem.map(at, 8192, 3, os.dup(guest.fd), 0)
        guest.mem.unmap(at, 8192)
        engine.grace()

    def queue(guest: Flood, _number: int) -> None:
        guest.vf.disable(2, 2)
        engine.publish()
        guest.lay_out(1)
        guest.vf.enable(2, 2)
        engine.publish()

    def vectors(guest: Flood, _number: int) -> None:
        event = guest.vector(1, 3, 3)
        guest.arm()
        guest.vf.raise_vector(1)
        guest.vf.set_eventfd(1, -1)
        engine.grace()
        rings.opened.remove(event)
        os.close(event)

    for _ in range(200):
        number = random_.randrange(len(storm.guests))
        guest = storm.guests[number]
        random_.choice([filters, tables, memory, queue, vectors])(guest, number)
        guest.vf.reclaim()
        guest.mem.reclaim()
    storm.flows()


def test_endpoint_leaves_under_traffic(storm: Storm) -> None:
    guest = storm.guests[-1]
    storm.engine.remove(guest.vf)
    before = (guest.sent, guest.received)
    guest.mem.unmap_all()
    guest.mem.reclaim()
    turns = storm.engine.turns()
    until(lambda: all(n > t + 100 for n, t in zip(storm.engine.turns(), turns, strict=True)), "")
    assert before == (guest.sent, guest.received)


@pytest.mark.vfio_user("12.14.1")
def test_grace_is_short_while_workers_are_busy(storm: Storm) -> None:
    took = []
    for _ in range(100):
        began = time.perf_counter()
        storm.engine.grace()
        took.append(time.perf_counter() - began)
    # A turn is a few hundred microseconds; the machine may have other things to do now and then.
    assert sorted(took)[50] < 0.02
    assert max(took) < 2.0


def pair(polled: bool, idle: str = "adaptive", workers: int = 1) -> tuple[Engine, Driver, Driver]:
    engine = Engine(workers, idle=idle, hold_s=10.0)
    guests = [Driver("a"), Driver("b")]
    for guest in guests:
        guest.vf = Vf(
            "x", guest.mem, guest.doorbells, guest.rows, 1, 2, guest.fault_fd, polled=polled
        )
        guest.vf.configure_tx(TxQueueConfig(0, 64, guest.tx_ring[0]))
        guest.vf.configure_rx(RxQueueConfig(0, 64, guest.rx_ring[0], 2048, 9728))
        guest.vf.set_bus_master(True)
        guest.enable()
        engine.add(guest.vf)
    engine.connect(*[guest.vf for guest in guests])
    engine.start()
    return engine, guests[0], guests[1]


FRAME = mac(1) + mac(0) + bytes(50)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("polled", [True, False], ids=["polled", "trapped"])
def test_idle_worker_is_woken_every_time(polled: bool, workers: int) -> None:
    engine, a, b = pair(polled, workers=workers)
    got = 0
    for number in range(150):
        b.post(1)
        slot = a.send(FRAME)
        if not polled:
            engine.wake()
        until(lambda slot=slot: a.tx_done(slot), f"frame {number} is lost")
        got += len(b.receive())
        if number % 50 == 0:  # long enough to fall asleep
            threading.Event().wait(0.03)
    assert got == 150
    engine.stop()


def test_trapped_idle_workers_make_no_turns() -> None:
    engine, _a, _b = pair(polled=False, workers=2)
    tick = threading.Event()

    def still() -> bool:
        before = engine.turns()
        tick.wait(0.05)
        return engine.turns() == before

    until(still, "an idle worker goes on turning")
    engine.stop()


def test_looks_of_a_polled_idle_worker_use_their_budget() -> None:
    engine, _a, _b = pair(polled=True)
    tick = threading.Event()

    def kept() -> bool:
        cpu, turns, began = time.process_time(), engine.turns()[0], time.monotonic()
        tick.wait(0.25)
        took = time.monotonic() - began
        # Of two devices.  Where looks are cheap, sleeps are the shortest and use less.
        share, each = (time.process_time() - cpu) / took, took / (engine.turns()[0] - turns)
        return share < 0.04 and (share > 0.025 or each < 0.00014)

    until(kept, "an idle worker looks too often, or not often enough")
    engine.stop()


def test_a_worker_stays_awake_from_one_short_frame_to_the_next() -> None:
    """But not from one long frame to the next."""
    engine, a, b = pair(polled=True)
    tick = threading.Event()

    def turns(length: int) -> int:
        before = engine.turns()[0]
        for _ in range(30):
            b.post(1)
            slot = a.send(FRAME.ljust(length, b"\0"))
            until(lambda slot=slot: a.tx_done(slot), "a frame is lost")
            b.receive()
            tick.wait(0.001)
        return engine.turns()[0] - before

    until(lambda: turns(64) > 3 * turns(1514), "a worker sleeps between requests")
    engine.stop()


def budgets(engine: Engine) -> list[float]:
    return [worker.idle_ppm / DEVICE_PPM for worker in engine._workers]


def test_each_polled_device_pays_for_looks() -> None:
    engine = Engine()
    guests = [Driver(str(number)) for number in range(3)]
    for number, guest in enumerate(guests):
        guest.enable()
        engine.add(guest.vf)
        assert budgets(engine) == [number + 1]
    engine.connect(*[guest.vf for guest in guests])
    assert budgets(engine) == [3]
    engine.remove(guests[0].vf)
    assert budgets(engine) == [2]


def test_devices_that_need_no_look_pay_for_none() -> None:
    engine, _a, _b = pair(polled=False)
    assert budgets(engine) == [0]
    engine.stop()


def test_a_device_of_several_workers_pays_once() -> None:
    engine, guest = Engine(2), Driver(queues=3)
    guest.enable()
    engine.add(guest.vf)
    engine.connect(guest.vf)
    # Of three rings and a poller, the first has rings 0 and 2 and the poller.
    assert budgets(engine) == pytest.approx([0.75, 0.25])
    guest.vf.disable(1, 2)
    engine.publish(guest.vf)
    assert budgets(engine) == pytest.approx([1, 0])


@pytest.mark.parametrize("polled", [True, False], ids=["polled", "trapped"])
def test_interval_ends_while_the_worker_sleeps(polled: bool) -> None:
    """An interrupt that moderation holds back comes without any further event."""
    engine, a, b = pair(polled)
    event = b.vector()
    b.vf.write_itr(0, 1, 0xFFF)
    for _ in range(5):
        b.post(1)
        b.vf.write_dyn_ctl(1, 0x19)
        a.send(FRAME)
        engine.wake()
        until(lambda: signalled(event) == 1, "the interrupt is lost")
    engine.stop()


@pytest.mark.parametrize("polled", [True, False], ids=["polled", "trapped"])
def test_event_of_another_worker_is_announced_when_armed(polled: bool) -> None:
    """The receiver's poller is worker 1's, which sleeps; the frames are worker 0's."""
    engine, a, b = pair(polled, workers=2)
    event = b.vector()
    for _ in range(20):
        b.post(1)
        slot = a.send(FRAME)
        engine.wake()
        until(lambda slot=slot: a.tx_done(slot), "a frame is lost")
        assert signalled(event) == 0
        if polled:
            b.arm()
        else:
            b.vf.write_dyn_ctl(1, 0x19)
        until(lambda: signalled(event) == 1, "the interrupt is lost")
    engine.stop()


@pytest.mark.parametrize("idle", ["busy", "adaptive"])
@pytest.mark.parametrize("polled", [True, False], ids=["polled", "trapped"])
def test_stop_takes_less_than_a_second(idle: str, polled: bool) -> None:
    def run() -> float:
        nonlocal engine, b
        engine, a, b = pair(polled, idle, workers=2)
        a.send(FRAME)  # held: nobody has posted a buffer
        engine.wake()
        until(lambda: a.rows[1][10] > 0, "nothing is held")
        began = time.monotonic()
        engine.stop()
        return time.monotonic() - began

    engine: Engine
    b: Driver
    assert best_of(8, 1.0, run) < 1.0
    with pytest.raises(StateError):
        engine.start()
    # Control may still change things and wait for nobody.
    b.vf.disable(1, 1)
    engine.publish()
    engine.grace()


def test_held_frame_is_dropped_after_its_time() -> None:
    engine = Engine(hold_s=0.05)
    a, b = Driver("a"), Driver("b")
    for guest in (a, b):
        guest.enable()
        engine.add(guest.vf)
    engine.connect(a.vf, b.vf)
    engine.start()
    began = time.monotonic()
    slot = a.send(FRAME)
    until(lambda: a.tx_done(slot), "held for ever")
    assert time.monotonic() - began >= 0.05
    assert b.rows[0][7] == 1
    engine.stop()


def test_order_and_bytes_survive_two_workers() -> None:
    """Numbered frames both ways through small rings, while control publishes all the time."""
    engine, a, b = pair(polled=True, idle="busy", workers=2)
    count = 2000
    got: dict[str, list[int]] = {"a": [], "b": []}
    sent = 0
    for guest in (a, b):
        guest.post(63)
    places = {id(g): [g.take(64) for _ in range(64)] for g in (a, b)}
    end = time.monotonic() + 60
    while min(len(numbers) for numbers in got.values()) < count:
        assert time.monotonic() < end, {name: len(numbers) for name, numbers in got.items()}
        if sent < count and all(
            (g.tx_next[0] - g.vf.ring_state("tx", 0)["head"]) % 64 < 40 for g in (a, b)
        ):
            for g in (a, b):
                at = places[id(g)][g.tx_next[0]]
                g.memory[at : at + 64] = FRAME[:14] + sent.to_bytes(50, "little")
                g.descriptors([(at, 0x30 | 64 << 34)])
            sent += 1
        for name, g in (("a", a), ("b", b)):
            frames = g.receive()
            got[name] += [int.from_bytes(f.data[14:], "little") for f in frames]
            if frames:
                g.post(len(frames))
        if sent % 50 == 0:
            engine.publish()
    assert got == {"a": list(range(count)), "b": list(range(count))}
    assert not np.any(a.rows[0][[4, 7, 9]])
    assert not np.any(b.rows[0][[4, 7, 9]])
    engine.stop()
