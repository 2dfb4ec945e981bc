"""Tails are remembered: what a driver takes back, or posts later, counts when it has to."""

from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxQueueConfig, TxQueueConfig
from tests.rings import QRX_TAIL, Driver
from tests.wire import MS, Wire

RING = 256
BURST = 32
ETHER = Ether(src="52:54:00:00:00:0a", dst="52:54:00:00:00:0b")


def rig(queues: int = 1) -> tuple[Engine, Driver, Driver]:
    engine = Engine(hold_s=1000.0)
    sender, receiver = Driver("a", ring_len=RING), Driver("b", queues, ring_len=RING)
    for driver in (sender, receiver):
        driver.enable()
        engine.add(driver.vf)
    engine.connect(sender.vf, receiver.vf)
    return engine, sender, receiver


def frames(count: int, size: int = 64) -> list[bytes]:
    return [bytes(ETHER / Raw(bytes([number]) * (size - 14))) for number in range(count)]


def arrived(receiver: Driver, queue: int = 0) -> list[bytes]:
    return [got.data for got in receiver.receive(queue)]


def begun(count: int) -> tuple[Engine, Driver, Driver, list[bytes]]:
    """So many frames are to be sent, and the first burst of them has been."""
    engine, sender, receiver = rig()
    receiver.post(RING - 1)
    sent = frames(count)
    for data in sent:
        sender.send(data)
    engine.step(1)
    return engine, sender, receiver, sent


def stop(engine: Engine, driver: Driver, configure: bool) -> None:
    """Both queues; configured anew they begin with slot 0 when they are started."""
    driver.vf.disable(1, 1)
    engine.publish()
    if configure:
        driver.vf.configure_tx(TxQueueConfig(0, RING, driver.tx_ring[0]))
        driver.vf.configure_rx(
            RxQueueConfig(0, RING, driver.rx_ring[0], 2048, 9728, writeback=driver.rxdid)
        )


@pytest.mark.parametrize("configure", [False, True])
def test_frames_that_a_stopped_queue_had_left_are_not_sent(configure: bool) -> None:
    engine, sender, receiver, sent = begun(100)
    assert arrived(receiver) == sent[:BURST]
    stop(engine, sender, configure)
    # The driver has none, where the device begins.
    sender.tail(0, 0 if configure else BURST)
    sender.vf.enable(0, 1)
    engine.publish()
    engine.step(5)
    assert arrived(receiver) == []
    assert sender.vf.take_faults() == []


@pytest.mark.parametrize("configure", [False, True])
def test_buffers_that_a_stopped_queue_had_left_are_not_filled(configure: bool) -> None:
    engine, sender, receiver = rig()
    receiver.post(100)
    first, second = frames(2)
    sender.send(first)
    engine.step(1)
    assert arrived(receiver) == [first]
    stop(engine, receiver, configure)
    begins = 0 if configure else 1
    receiver.tail(QRX_TAIL, begins)
    receiver.vf.enable(1, 0)
    engine.publish()
    sender.send(second)
    engine.step(5)
    assert receiver.vf.ring_state("rx", 0)["head"] == begins
    receiver.tail(QRX_TAIL, begins + 1)
    engine.step(5)
    assert receiver.vf.ring_state("rx", 0)["head"] == begins + 1


def single(sender: Driver) -> list[bytes]:
    """More frames than there are buffers known."""
    sent = frames(20)
    for data in sent:
        sender.send(data)
    return sent


def several(sender: Driver) -> list[bytes]:
    """As many as buffers are known, of which each takes five."""
    sent = frames(4, 9000)
    for data in sent:
        sender.send(data)
    return sent


def flows(sender: Driver) -> list[bytes]:
    """To several queues by their hash."""
    sent = [
        bytes(ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=port, dport=9))
        for port in range(30)
    ]
    for data in sent:
        sender.send(data)
    return sent


def large(sender: Driver) -> list[bytes]:
    """One frame that becomes 25."""
    packet = ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=5, dport=6) / Raw(bytes(25_000))
    context = (0, 1 | 0x10 | 25_000 << 30 | 1000 << 50)
    pieces = [54, 15_000, 10_000]
    sender.send(bytes(packet), pieces=pieces, cmd=0x160, lengths=(14, 20, 20), context=context)
    return [b""] * 25


@pytest.mark.parametrize("queues", [1, 2])
@pytest.mark.parametrize("post", [single, several, flows, large])
def test_buffers_posted_meanwhile_are_found_when_they_are_needed(
    queues: int, post: Callable[[Driver], list[bytes]]
) -> None:
    engine, sender, receiver = rig(queues)
    if queues > 1:
        lut = bytes(number % queues for number in range(64))
        receiver.vf.set_rss(RssConfig(bytes(range(52)), lut, 1 << 31))
    (first,) = frames(1)
    for queue in range(queues):
        receiver.post(8, queue)
    sender.send(first)
    engine.step(1)
    assert arrived(receiver) == [first]
    for queue in range(queues):
        receiver.post(100, queue)
    sent = post(sender)
    engine.step(1)
    got = [data for queue in range(queues) for data in arrived(receiver, queue)]
    assert len(got) == len(sent)
    if all(sent):
        assert sorted(got) == sorted(sent)


def test_frame_that_comes_with_two_doorbells_is_sent_whole() -> None:
    """Also when more of it is known than a burst has frames."""
    engine, sender, receiver = rig()
    receiver.post(10)
    (data,) = frames(1, 4000)
    begins = sender.tx_next[0]
    sender.send(data, pieces=[80] * 50)
    for known in (1, BURST, BURST + 5, 49):
        sender.tail(0, begins + known)
        engine.step(3)
        assert arrived(receiver) == []
    sender.tail(0, begins + 50)
    engine.step(3)
    assert arrived(receiver) == [data]


def test_tail_beyond_the_ring_stops_the_queue_once_what_is_known_is_sent() -> None:
    engine, sender, receiver, sent = begun(70)
    sender.tail(0, RING)
    engine.step(5)
    assert sender.vf.take_faults() == [("tx", 0, "tail beyond the ring")]
    got = arrived(receiver)
    assert len(got) in (BURST, 2 * BURST)
    assert got == sent[: len(got)]


def test_tail_taken_back_between_two_looks_escapes_no_limit() -> None:
    wire = Wire(10, 1514)
    wire.run(200 * MS, 100_000)
    before, begin = wire.sent(), wire.now
    while wire.now < begin + 400 * MS:
        wire.now += 100_000
        wire.refill()
        wire.engine.step(1, wire.now)
        # To the limit there is nothing to be sent, as far as the tail goes.
        for _ in range(8):
            wire.sender.tail(0, wire.heads()[0])
            wire.engine.step(1, wire.now)
    assert (wire.sent() - before) * 8 * 1000 / (400 * MS) <= 10 * 1.05
