"""What the host promises a VF (min-rate) where there is not enough for all; the clock is ours."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RxFilter
from emuiavf.policy import VfPolicy
from tests.rings import Driver
from tests.wire import MS, TX_BYTES, TX_PACKETS, mac

SIZE = 1514
STEP_NS = 20_000
RING = 128
OTHER = 0x80  # number of a second sink


def policy(min_rate: int) -> VfPolicy:
    return replace(VfPolicy(), min_rate=min_rate)


class Crowd:
    """Guests that send without end to one sink of a switch, which takes `room` frames each `every`
    steps."""

    def __init__(
        self,
        promised: Sequence[int],
        room: int = 2,
        every: int = 1,
        workers: int = 1,
        max_rate: int = 0,
    ) -> None:
        self.engine = Engine(workers)
        self.sink = Driver("sink", ring_len=2048)
        self.other = Driver("other", ring_len=2048)
        self.senders = [Driver(f"sender{n}", ring_len=RING) for n in range(len(promised))]
        # The sinks come first and the switch is larger than two.
        members = {mac(0): self.sink, mac(OTHER): self.other}
        members |= {mac(1 + n): sender for n, sender in enumerate(self.senders)}
        for address, driver in members.items():
            driver.vf.set_filter(RxFilter(frozenset({address})))
            driver.enable()
            self.engine.add(driver.vf)
        self.engine.connect(*[driver.vf for driver in members.values()])
        for sender, rate in zip(self.senders, promised, strict=True):
            sender.vf.set_rate(max_rate)
            self.engine.set_policy(sender.vf, policy(rate))
        for number, sender in enumerate(self.senders):
            self.fill(number, sender, [mac(0)])
        self.room, self.every = room, every
        # Later than the real time at which the buckets were set.
        self.now, self.steps = time.monotonic_ns() + 1_000_000_000, 0
        # A bucket that was just set has nothing saved.
        self.idle: set[int] = set()
        self.got: Counter[int] = Counter()

    def fill(self, number: int, sender: Driver, to: Sequence[bytes]) -> None:
        """All descriptors of a sender; by turns for these addresses."""
        for slot in range(RING):
            data = to[slot % len(to)] + mac(1 + number) + b"\x08\x00" + bytes([slot])
            address = sender.take(SIZE)
            sender.memory[address : address + SIZE] = data.ljust(SIZE, b"\0")
            word = 0x10 | (SIZE << 34)
            sender.put_qwords(sender.tx_ring[0] + slot * 16, address, word)

    def step(self) -> None:
        self.now += STEP_NS
        self.steps += 1
        if self.steps % self.every == 0:
            self.sink.refill(self.room)
        for number, sender in enumerate(self.senders):
            if number not in self.idle:
                head = sender.vf.ring_state("tx", 0)["head"]
                sender.tail(0, (head - 1) % RING)
        self.engine.step(1, self.now)
        for frame in self.sink.receive():
            self.got[frame.data[11] - 1] += 1

    def run(self, duration_ns: int) -> list[float]:
        """Mb/s that the sink has received of each sender."""
        self.got.clear()
        for _ in range(duration_ns // STEP_NS):
            self.step()
        return [self.got[n] * SIZE * 8 * 1000 / duration_ns for n in range(len(self.senders))]

    @property
    def capacity(self) -> float:
        """Mb/s that the sink takes."""
        return self.room * SIZE * 8 * 1000 / (self.every * STEP_NS)


def settled(crowd: Crowd) -> Crowd:
    crowd.run(20 * MS)
    return crowd


@pytest.mark.parametrize("last", [300, 600, 1000])
def test_last_in_turn_gets_what_it_was_promised_of_a_crowded_sink(last: int) -> None:
    crowd = settled(Crowd([0, 0, last]))
    shares = crowd.run(60 * MS)
    assert shares[2] >= 0.95 * last
    assert sum(shares) >= 0.95 * crowd.capacity


def test_without_a_promise_the_last_in_turn_got_nothing() -> None:
    """Who is looked at first takes what room there is: this is what a promise is for."""
    assert settled(Crowd([0, 0, 0])).run(20 * MS)[2] == 0


def test_each_gets_what_it_was_promised_and_the_rest_is_not_lost() -> None:
    crowd = settled(Crowd([100, 500, 300]))
    shares = crowd.run(80 * MS)
    assert all(share >= 0.95 * rate for share, rate in zip(shares, (100, 500, 300), strict=True))
    assert sum(shares) >= 0.95 * crowd.capacity


@pytest.mark.parametrize("every", [5, 20, 40])
def test_sink_that_makes_room_now_and_then_keeps_it_for_who_waits(every: int) -> None:
    """Up to 0.8 ms without room, then some for all of that time."""
    crowd = settled(Crowd([0, 0, 600], room=2 * every, every=every))
    shares = crowd.run(80 * MS)
    assert shares[2] >= 0.95 * 600
    assert sum(shares) >= 0.95 * crowd.capacity


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_of_the_others_keep_the_room_too(workers: int) -> None:
    crowd = settled(Crowd([0, 0, 600, 0], room=10, every=5, workers=workers))
    shares = crowd.run(80 * MS)
    assert shares[2] >= 0.95 * 600
    assert sum(shares) >= 0.95 * crowd.capacity


@pytest.mark.parametrize("second", [0, 900], ids=["others", "promised too"])
def test_worker_whose_clock_is_behind_keeps_and_waits_too(second: int) -> None:
    """A turn has the time of its beginning: what another worker has noted may be later."""
    crowd = Crowd([900, second], workers=2)
    for sender in crowd.senders:
        sender.tail(0, RING - 1)
    ahead, behind = crowd.engine._workers
    ahead.step(1, crowd.now + 50_000)
    assert crowd.senders[0].rows[1, TX_PACKETS] == 0
    if not second:
        crowd.sink.post(4)
    behind.step(1, crowd.now)
    discards = int(crowd.senders[1].rows[1, 4])
    assert crowd.sink.rows[0, 4] == 0
    assert crowd.sink.receive() == []
    assert discards == (0 if second else 32)


def test_promise_is_no_limit() -> None:
    """Alone it has all of it."""
    crowd = Crowd([0, 0, 100])
    crowd.idle = {0, 1}
    shares = settled(crowd).run(40 * MS)
    assert shares[2] >= 0.95 * crowd.capacity


def test_who_does_not_use_its_promise_leaves_it_to_the_others() -> None:
    crowd = Crowd([0, 0, 1000])
    crowd.idle = {2}
    shares = settled(crowd).run(40 * MS)
    assert shares[2] == 0
    assert sum(shares) >= 0.95 * crowd.capacity


def test_limit_stands_above_the_promise() -> None:
    crowd = settled(Crowd([0, 0, 200], max_rate=200))
    shares = crowd.run(80 * MS)
    assert shares[2] == pytest.approx(200, rel=0.06)


def test_promise_comes_and_goes_under_traffic() -> None:
    crowd = settled(Crowd([0, 0, 0]))
    crowd.engine.set_policy(crowd.senders[2].vf, policy(600))
    assert settled(crowd).run(40 * MS)[2] >= 0.95 * 600
    crowd.engine.set_policy(crowd.senders[2].vf, policy(0))
    assert settled(crowd).run(20 * MS)[2] == 0


def test_frames_are_neither_doubled_nor_lost_nor_overtaken() -> None:
    """Half of them for a sink with room; those for the crowded one wait, and none is dropped."""
    crowd = Crowd([900], room=1)
    sender = crowd.senders[0]
    crowd.fill(0, sender, [mac(0), mac(OTHER)])
    crowd.other.post(2000)
    numbers: list[int] = []
    others: list[int] = []
    for _ in range(1000):
        crowd.now += STEP_NS
        crowd.sink.post(1)
        sender.tail(0, (sender.vf.ring_state("tx", 0)["head"] - 1) % RING)
        # Of what it was promised: all others have none left.
        crowd.engine.step(1, crowd.now)
        numbers += [frame.data[14] for frame in crowd.sink.receive()]
        others += [frame.data[14] for frame in crowd.other.receive()]
        if len(others) > 1500:
            break
    sent = int(sender.rows[1, TX_PACKETS])
    lost = int(crowd.sink.rows[0, 4])
    assert len(others) == sent // 2
    assert others == [2 * i % RING + 1 for i in range(len(others))]
    assert len(numbers) + lost == sent - len(others)


def test_sink_that_takes_nothing_holds_up_only_for_a_moment() -> None:
    """Not what is for others, and not the others: a millisecond once, not for each frame."""
    crowd = Crowd([0, 900], room=0)
    crowd.fill(1, crowd.senders[1], [mac(0), mac(OTHER)])
    for _ in range(500):
        crowd.other.post(30)
        crowd.step()
        crowd.other.receive()
    sent = int(crowd.senders[1].rows[1, TX_PACKETS])
    # A whole turn nearly each step.
    assert sent > 0.8 * 500 * 32
    assert int(crowd.senders[0].rows[1, TX_PACKETS]) == 500 * 32


@pytest.mark.parametrize("every", [10, 45])
def test_sink_that_takes_a_frame_now_and_then_holds_up_no_promise(every: int) -> None:
    """Or a guest that posts one buffer each millisecond decided what others may send to all."""
    crowd = Crowd([900], room=1, every=every)
    crowd.fill(0, crowd.senders[0], [mac(0), mac(OTHER)])
    got = 0
    for _ in range(200 * MS // STEP_NS):
        crowd.other.refill(200)
        crowd.step()
        got += len(crowd.other.receive())
    # Half of what it sends is for the sink that has room.
    assert got * SIZE * 8 * 1000 / (200 * MS) >= 0.95 * 900 / 2


def test_broadcasts_and_unknown_addresses_do_not_wait() -> None:
    crowd = Crowd([900, 0], room=0)
    crowd.idle = {1}
    crowd.fill(0, crowd.senders[0], [b"\xff" * 6, mac(0x77)])
    crowd.senders[1].post(RING - 1)
    crowd.other.post(2047)
    for _ in range(4):
        crowd.step()
    assert int(crowd.senders[0].rows[1, TX_PACKETS]) >= 4 * 32
    assert len(crowd.other.receive()) == int(crowd.senders[0].rows[1, 3])  # broadcasts, each once


def test_port_vlans_are_put_on_and_taken_off_as_ever() -> None:
    crowd = Crowd([500, 0])
    crowd.idle = {1}
    for driver, rate in ((crowd.sink, 0), (crowd.senders[0], 500)):
        crowd.engine.set_policy(driver.vf, replace(policy(rate), port_vlan=7))
    crowd.now += 20 * MS
    crowd.sink.post(40)
    crowd.senders[0].tail(0, 40)
    crowd.engine.step(1, crowd.now)
    data = [frame.data for frame in crowd.sink.receive()]
    assert [(len(frame), frame[12:14], frame[14]) for frame in data] == [
        (SIZE, b"\x08\x00", slot) for slot in range(40)
    ]


@pytest.mark.parametrize("buffers", [3, 5, 100])
def test_frame_that_is_cut_goes_on_where_it_waited(buffers: int) -> None:
    crowd = Crowd([500])
    payload, mss = 8760, 1460
    header = (
        mac(0)
        + mac(1)
        + bytes.fromhex("08004500226000014000400600000a0000010a000002")
        + bytes(12)
        + b"\x50\x10"
        + bytes(6)
    )
    body = bytes(range(256)) * 35
    sender = crowd.senders[0]
    for _ in range(2):
        context = (0, 1 | 0x10 | mss << 50)
        data = header + body[:payload]
        sender.send(data, cmd=0x100 | 0x60, lengths=(14, 20, 20), context=context)
    got = b""
    for _ in range(40):
        crowd.now += 500_000
        crowd.sink.post(min(buffers, 12))
        crowd.engine.step(1, crowd.now)
        got += b"".join(frame.data[54:] for frame in crowd.sink.receive())
    assert got == body[:payload] * 2


class Hurried(Crowd):
    """A worker that cannot serve all: each frame takes its time; the sink has room for all."""

    FRAME_NS = 4_000

    def step(self) -> None:
        before = sum(int(sender.rows[1, TX_PACKETS]) for sender in self.senders)
        self.sink.post(1000 - self.sink.rx_posted[0] % 1000 if self.steps == 0 else 0)
        for sender in self.senders:
            sender.tail(0, (sender.vf.ring_state("tx", 0)["head"] - 1) % RING)
        head = self.sink.vf.ring_state("rx", 0)["head"]
        self.sink.tail(0x2000, (head - 1) % self.sink.ring_len)
        self.engine.step(1, self.now)
        self.steps += 1
        moved = sum(int(sender.rows[1, TX_PACKETS]) for sender in self.senders) - before
        self.now += moved * self.FRAME_NS

    def run(self, duration_ns: int) -> list[float]:
        """Mb/s that each has sent."""
        before = [int(sender.rows[1, TX_BYTES]) for sender in self.senders]
        began = self.now
        while self.now < began + duration_ns:
            self.step()
        sent = [int(sender.rows[1, TX_BYTES]) for sender in self.senders]
        took = self.now - began
        return [(new - old) * 8 * 1000 / took for new, old in zip(sent, before, strict=True)]


CAPACITY = SIZE * 8 * 1000 / Hurried.FRAME_NS


def test_worker_without_promises_serves_all_alike() -> None:
    shares = Hurried([0, 0, 0, 0]).run(100 * MS)
    assert shares == pytest.approx([CAPACITY / 4] * 4, rel=0.05)


@pytest.mark.parametrize("rate", [1200, 1800])
def test_worker_that_cannot_serve_all_serves_first_who_was_promised(rate: int) -> None:
    crowd = settled(Hurried([0, 0, 0, rate]))
    *others, share = crowd.run(200 * MS)
    assert share >= 0.95 * rate
    assert others == pytest.approx([sum(others) / 3] * 3, rel=0.05)


def test_nobody_starves_beside_a_promise_of_all() -> None:
    """At most nine turns for one of the others; a ring of 128 is empty after four."""
    crowd = settled(Hurried([0, 0, 100_000]))
    *others, share = crowd.run(100 * MS)
    assert share == pytest.approx(127 / 32 * others[0], rel=0.05)
    assert others[0] == pytest.approx(others[1], rel=0.05)


@pytest.mark.parametrize("spoofed", [False, True], ids=["too short", "spoofed"])
def test_frames_that_are_refused_use_up_a_promise(spoofed: bool) -> None:
    """They cost a worker as much as others: who sends nothing else comes first no more often."""
    crowd = Crowd([0, 10])
    sender = crowd.senders[1]
    crowd.engine.set_policy(sender.vf, replace(policy(10), spoofchk=spoofed))
    if spoofed:
        crowd.fill(6, sender, [mac(0)])
    else:
        for slot in range(RING):
            address = sender.take(10)
            sender.put_qwords(sender.tx_ring[0] + slot * 16, address, 0x10 | 10 << 34)
    settled(crowd)
    before = [int(driver.rows[1, TX_PACKETS]) for driver in crowd.senders], sender.rows[1, 5]
    for _ in range(1000):
        crowd.step()
    assert crowd.senders[0].rows[1, TX_PACKETS] - before[0][0] == 1000 * 32
    assert sender.rows[1, 5] - before[1] <= 1.05 * 1000 * 32


def test_what_is_left_is_shared_by_all() -> None:
    """As a card's scheduler does: first what was promised, then all alike."""
    shares = settled(Hurried([0, 0, 0, 100])).run(200 * MS)
    share = (CAPACITY - 100) / 4
    assert shares == pytest.approx([share, share, share, share + 100], rel=0.05)
