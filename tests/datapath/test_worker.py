"""Delivery of bursts by a worker: holds, replication, counters; no thread is started."""

import os

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxFilter, TxQueueConfig
from emuiavf.errors import ConfigError, StateError
from tests.rings import Driver, signalled
from tests.wire import joined, mac

FILTERED, HELD, SEGMENTS = 12, 10, 7
TXD_TSO_TCP4 = 0x100 | 0x60
EVERYTHING = (1 << 64) - 1


def frame(dst: bytes, size: int = 64, seed: int = 1) -> bytes:
    return dst + mac(0xAA) + b"\x88\xb5" + bytes((seed + i * 7) & 0xFF for i in range(size - 14))


def large(dst: bytes, payload: int) -> bytes:
    packet = (
        Ether(src=mac(0xAA), dst=dst.hex(":"))
        / IP(src="10.0.0.1", dst="10.0.0.2", id=1)
        / TCP(sport=1, dport=2, seq=5, flags="A")
        / Raw(bytes(i & 0xFF for i in range(payload)))
    )
    return bytes(packet)


def send_large(driver: Driver, data: bytes, mss: int) -> int:
    context = (0, 1 | 0x10 | mss << 50)
    return driver.send(data, cmd=TXD_TSO_TCP4, lengths=(14, 20, 20), context=context)


def test_filtered_frame_behind_a_held_one_is_counted_once() -> None:
    engine, (a, b) = joined(2)
    a.send(frame(mac(1)))
    a.send(frame(mac(9)))
    engine.step(5)
    assert a.rows[1][FILTERED] == 0
    assert a.rows[1][HELD] == 5
    b.post(4)
    engine.step(3)
    assert [f.data for f in b.receive()] == [frame(mac(1))]
    assert a.rows[1][FILTERED] == 1


def test_frame_to_be_cut_reaches_every_member_whole() -> None:
    engine, drivers = joined(4)
    for driver in drivers:
        driver.post(40)
    send_large(drivers[0], large(b"\xff" * 6, 3000), 1000)
    engine.step()
    got = [[f.data for f in d.receive()] for d in drivers]
    assert [len(frames) for frames in got] == [0, 3, 3, 3]
    assert got[1] == got[2] == got[3]
    assert b"".join(data[54:] for data in got[1]) == large(b"\xff" * 6, 3000)[54:]


def test_frame_to_be_cut_that_one_member_drops_reaches_the_others() -> None:
    engine, drivers = joined(3)
    drivers[2].post(40)
    send_large(drivers[0], large(b"\xff" * 6, 3000), 1000)
    engine.step()
    assert drivers[1].rows[0][7] == 3
    assert len(drivers[2].receive()) == 3


def test_hash_of_one_member_is_not_told_to_another() -> None:
    engine, drivers = joined(3, judge=False)
    drivers[1].vf.set_rss(RssConfig(bytes(range(52)), bytes(64), EVERYTHING))
    for driver in drivers:
        driver.post(4)
    packet = Ether(src=mac(0xAA), dst="ff:ff:ff:ff:ff:ff") / IP(dst="10.0.0.2") / UDP(dport=9)
    drivers[0].send(bytes(packet))
    engine.step()
    (hashed,), (plain,) = drivers[1].receive(), drivers[2].receive()
    assert hashed.qwords[1] >> 12 & 3 == 3
    assert hashed.hash != 0
    assert plain.qwords[1] >> 12 & 3 == 0
    assert plain.hash == 0


@pytest.mark.parametrize("buffer_size", [128, 2048])
def test_frame_to_be_cut_of_one_segment_may_name_any_mss(buffer_size: int) -> None:
    """What counts against the limits of a queue is the segment that there is."""
    engine, (a, b) = joined(2, max_pkt_size=1518, buffer_size=buffer_size)
    b.post(8)
    send_large(a, large(mac(1), 300), 9000)
    engine.step()
    (got,) = b.receive()
    assert len(got.data) == 354
    assert got.errors == 0
    assert b.rows[0][8] == 0


def test_hold_ends_after_its_time_for_the_whole_burst() -> None:
    engine, (a, b) = joined(2, hold_s=0.0)
    slots = [a.send(frame(mac(1), seed=i)) for i in range(3)]
    engine.step(4)
    assert all(a.tx_done(slot) for slot in slots)
    assert tuple(b.rows[0][[4, 7, 6]]) == (3, 3, 0)


def test_hold_of_an_earlier_configuration_is_forgotten() -> None:
    engine, (a, b) = joined(2, hold_s=0.2)
    a.send(frame(mac(1)))
    engine.step(2)
    a.vf.disable(0, 1)
    engine.publish()
    a.vf.configure_tx(TxQueueConfig(0, a.ring_len, a.tx_ring[0]))
    a.tx_next[0] = 0
    a.vf.enable(0, 1)
    engine.publish()
    b.post(1)
    a.send(frame(mac(1), seed=3))
    engine.step(2)
    assert [f.data for f in b.receive()] == [frame(mac(1), seed=3)]


def test_switch_never_holds() -> None:
    engine, drivers = joined(3)
    slot = drivers[0].send(frame(mac(1)))
    engine.step()
    assert drivers[0].tx_done(slot)
    assert drivers[1].rows[0][7] == 1


def test_rewritten_descriptor_of_a_frame_cut_half_is_harmless() -> None:
    """The head of the queue is not what the cursor was made for: hostile, and bounded."""
    for length, mss, tso in ((60, 9, True), (1084, 1, True), (1054, 0, True), (70, 5, False)):
        engine, (a, b) = joined(2)
        slot = send_large(a, large(mac(1), 3000), 500)
        b.post(2)
        engine.step()
        assert len(b.receive()) == 2
        assert not a.tx_done(slot)
        ring = a.tx_ring[0]
        if not tso:
            # Now the first slot is a frame of its own.
            a.put_qwords(ring, *[a.qword(ring + 16), 0x30 | length << 34])
        else:
            a.put_qwords(ring + 8, 1 | 0x10 | mss << 50)
            word = a.qword(ring + 24)
            a.put_qwords(ring + 24, (word & ~(0x3FFF << 34)) | length << 34)
        b.post(40)
        engine.step(20)
        for driver in (a, b):
            assert [text for _, _, text in driver.vf.take_faults()] == []
        assert a.vf.ring_state("tx", 0)["cursor"] == 0
        b.receive()


def test_memory_map_changes_between_bursts_are_seen() -> None:
    """Old tables are freed and new ones come to lie in their place; no hint may outlive that."""
    engine, (a, b) = joined(2)
    spare = [1 << 30, 1 << 31]
    b.post(60)
    for number in range(50):
        data = frame(mac(1), 60 + number % 60, number)
        for driver in (a, b):
            # Extents below and above come and go: the one in use changes its place in the table.
            driver.mem.map(spare[number & 1], 4096, 3, os.dup(driver.fd), 4096 * number)
        engine.grace()
        for driver in (a, b):
            driver.mem.reclaim()
        a.send(data)
        engine.step()
        assert b.receive()[-1].data == data
        b.post(1)
        for driver in (a, b):
            driver.mem.unmap(spare[number & 1], 4096)
        engine.grace()
        for driver in (a, b):
            driver.mem.reclaim()


def test_unmapped_buffers_are_not_reached_by_a_hint() -> None:
    engine, (a, b) = joined(2)
    b.post(4)
    page = a.take(8192) + 4095 & ~4095
    a.mem.map(1 << 30, 4096, 3, os.dup(a.fd), page)
    a.memory[page : page + 64] = frame(mac(1))
    a.descriptors([(1 << 30, 0x30 | 64 << 34)])
    engine.step()
    assert len(b.receive()) == 1
    a.mem.unmap(1 << 30, 4096)
    engine.grace()
    a.mem.reclaim()
    a.descriptors([(1 << 30, 0x30 | 64 << 34)])
    engine.step()
    assert a.vf.take_faults() == [("tx", 0, "buffer address is not mapped")]


def test_filter_that_cannot_be_built_leaves_the_old_one() -> None:
    engine, (a, b) = joined(2)
    b.post(4)
    with pytest.raises(ValueError, match="6 bytes"):
        b.vf.set_filter(RxFilter(frozenset({b"short"})))
    engine.publish()
    b.vf.reclaim()
    a.send(frame(mac(1)))
    a.send(frame(mac(7)))
    engine.step()
    assert [f.data for f in b.receive()] == [frame(mac(1))]


def test_interrupt_of_an_endpoint_that_left_wakes_nobody() -> None:
    engine, (a, _b) = joined(2)
    event = a.vector()
    engine.remove(a.vf)
    engine.stop()
    del engine
    a.vf.raise_vector(1)
    assert signalled(event) == 0
    a.vf.write_dyn_ctl(1, 0x19)
    assert signalled(event) == 1


def test_connect_refuses_what_cannot_be() -> None:
    engine, (a, b) = joined(2)
    stranger = Driver("stranger")
    with pytest.raises(ConfigError, match="connected already"):
        engine.connect(a.vf)
    with pytest.raises(StateError, match="not part"):
        engine.connect(stranger.vf)
    with pytest.raises(ConfigError, match="nothing"):
        engine.connect()
    engine.disconnect(a.vf, b.vf)
    with pytest.raises(StateError, match="not connected"):
        engine.disconnect(a.vf, b.vf)
    with pytest.raises(ConfigError, match="twice"):
        engine.connect(a.vf, a.vf)
    engine.connect(b.vf, a.vf)
    a.post(1)
    b.send(frame(mac(0)))
    engine.step()
    assert len(a.receive()) == 1


def test_engine_options_are_judged() -> None:
    with pytest.raises(ConfigError, match="workers"):
        Engine(workers=0)
    with pytest.raises(ConfigError, match="idle"):
        Engine(idle="lazy")
    with pytest.raises(ConfigError, match="cpus: 4095"):
        Engine(cpus=[4095])
