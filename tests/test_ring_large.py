"""A VF of 256 queue pairs and 65 vectors: tables, tails, words of BAR0, rows of the last queue."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, VectorMap
from tests.model.kernels import toeplitz
from tests.rings import Driver, signalled

QUEUES = 256
VECTORS = 65
ALL = (1 << QUEUES) - 1
KEY = bytes(range(7, 59))
IPV4_UDP = 1 << 31
NEVER = 1 << 60  # beyond any sweep


def rig():
    """A plain VF and a large one, of small rings and buffers."""
    engine = Engine(hold_s=10.0)
    a, b = Driver("a"), Driver("b", queues=QUEUES, ring_len=32, buffer_size=256)
    for driver in (a, b):
        driver.enable()
        engine.add(driver.vf)
    engine.connect(a.vf, b.vf)
    return engine, a, b


def flow(number):
    head = Ether(src="52:54:00:00:00:0a", dst="52:54:00:00:00:0b")
    packet = head / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=number, dport=9)
    return bytes(packet) + bytes(20)


def hashed(data):
    return toeplitz(KEY, data[26:38])


def send_all(engine, a, frames):
    for at in range(0, len(frames), 32):
        for data in frames[at : at + 32]:
            a.send(data)
        engine.step(4)


@pytest.mark.parametrize("entries", [64, 512])
def test_table_reaches_queues_up_to_the_last(entries):
    engine, a, b = rig()
    lut = bytes((255 - i) % 256 for i in range(entries))
    b.vf.set_rss(RssConfig(KEY, lut, IPV4_UDP))
    for queue in range(QUEUES):
        b.post(31, queue)
    frames = [flow(number) for number in range(1, 1000)]
    send_all(engine, a, frames)
    due = {queue: [] for queue in range(QUEUES)}
    for data in frames:
        due[lut[hashed(data) % entries]].append((data, hashed(data)))
    for queue, expected in due.items():
        assert [(one.data, one.hash) for one in b.receive(queue)] == expected
        assert b.rows[queue, 6] == len(expected)
    assert sum(map(bool, due.values())) > min(entries, QUEUES) * 0.9
    assert due[255]
    assert b.rows[:QUEUES, 4].sum() == 0


def test_every_tx_queue_sends():
    engine = Engine(hold_s=10.0)
    a, b = Driver("a", queues=QUEUES, ring_len=32, buffer_size=256), Driver("b", ring_len=512)
    for driver in (a, b):
        driver.enable()
        engine.add(driver.vf)
    engine.connect(a.vf, b.vf)
    b.post(511)
    slots = {queue: a.send(flow(queue + 1), queue=queue) for queue in range(QUEUES)}
    engine.step(4)
    assert all(a.tx_done(slot, queue) for queue, slot in slots.items())
    assert sorted(one.data for one in b.receive()) == sorted(flow(n + 1) for n in range(QUEUES))
    assert (a.rows[QUEUES:, 6] == 1).all()


def test_one_queue_stops_and_the_others_go_on():
    engine, a, b = rig()
    b.vf.set_rss(RssConfig(KEY, bytes(i % 256 for i in range(512)), IPV4_UDP))
    for queue in range(QUEUES):
        b.post(31, queue)
    b.vf.disable(1 << 200, 1 << 100)
    assert b.vf.rx_enabled == ALL & ~(1 << 200)
    assert b.vf.tx_enabled == ALL & ~(1 << 100)
    frames = [flow(number) for number in range(1, 700)]
    stopped = [data for data in frames if hashed(data) % 256 == 200]
    zero = [data for data in frames if hashed(data) % 256 == 0]
    assert stopped
    send_all(engine, a, frames)
    # What was for it goes to queue 0.
    assert sorted(one.data for one in b.receive(0)) == sorted(stopped + zero)
    assert b.receive(200) == []
    assert sum(b.rows[:QUEUES, 6]) == len(frames)


def test_vectors_share_the_queues():
    engine, a, b = rig()
    b.vf.set_rss(RssConfig(KEY, bytes(i % 256 for i in range(512)), IPV4_UDP))
    for queue in range(QUEUES):
        b.post(31, queue)
    events = {}
    for vector in range(1, VECTORS):
        queues = sum(1 << queue for queue in range(vector - 1, QUEUES, VECTORS - 1))
        events[vector] = b.vector(vector, rx=queues, tx=0, itr=(3, 3))
        b.arm(vector)
    frames = [flow(number) for number in range(1, 400)]
    send_all(engine, a, frames)
    used = {1 + hashed(data) % 256 % 64 for data in frames}
    assert {vector for vector, event in events.items() if signalled(event)} == used
    assert 64 in used


def test_a_queue_that_changes_its_vector_leaves_the_old_one():
    engine, a, b = rig()
    b.post(8, 0)
    old, new = b.vector(1, rx=ALL, tx=ALL), b.vector(64, rx=1, tx=1)
    b.vf.map_vector(VectorMap(1, ALL & ~1, ALL & ~1, 3, 3))
    b.arm(1)
    b.arm(64)
    a.send(bytes.fromhex("52540000000b 52540000000a 88b5") + bytes(50))
    engine.step()
    assert (signalled(old), signalled(new)) == (0, 1)


@pytest.mark.parametrize("vector", [16, 17, 64])
def test_an_interval_is_that_of_its_vector_alone(vector):
    """Beyond vector 16 ITRN words stand for other vectors: DYN_CTLN gives the interval."""
    engine, a, b = rig()
    other = 63 if vector == 64 else vector + 1
    first, second = b.vector(vector, rx=1, itr=(0, 3)), b.vector(other, rx=2, itr=(0, 3))
    b.post(31, 0)
    us_8160 = 0x1 | 0xFF0 << 5
    b.arm(vector, us_8160)
    b.arm(other, 0x1)
    data = bytes.fromhex("52540000000b 52540000000a 88b5") + bytes(50)
    now = NEVER
    a.send(data)
    engine.step(at_ns=now)
    assert signalled(first) == 1
    b.arm(vector)
    a.send(data)
    engine.step(at_ns=now + 8_000_000)
    assert signalled(first) == 0
    engine.step(at_ns=now + 8_200_000)
    assert signalled(first) == 1
    assert signalled(second) == 0
    assert b.vf.read_itr(0, vector) == 0xFF0
    b.vf.write_dyn_ctl(other, 0x1 | 0x4)
    assert b.vf.read_itr(0, other) == 0
    assert signalled(second) == 1


def test_what_waits_on_the_last_vector_fires_when_it_is_armed():
    """Traps 29 and 30, of a vector that nothing was mapped to before."""
    engine, a, b = rig()
    event = b.vector(64, rx=1, itr=(3, 3))
    b.post(8, 0)
    a.send(bytes.fromhex("52540000000b 52540000000a 88b5") + bytes(50))
    engine.step(2)
    assert signalled(event) == 0
    b.arm(64)
    engine.step()
    assert signalled(event) == 1
    # A software trigger stored into the word of a vector without queues.
    lone = b.vector(63, rx=0, tx=0)
    b.arm(63, 0x1 | 0x4 | 0x18)
    engine.step(at_ns=NEVER)
    assert signalled(lone) == 1


def test_after_a_reset_the_last_queue_and_vector_start_anew():
    _engine, _a, b = rig()
    b.vector(64, rx=ALL, tx=ALL)
    b.arm(64, 0x1 | 0xFF0 << 5)
    b.post(31, 255)
    b.vf.disable(ALL, ALL)
    b.vf.forget()
    assert (b.vf.rx_enabled, b.vf.tx_enabled) == (0, 0)
    assert b.registers[(0x2000 + 4 * 255) // 4] == 0
    assert (b.vf.read_dyn_ctl(64), b.vf.read_itr(0, 64)) == (0, 0)
    assert b.vf.ring_state("rx", 255)["configured"] == 0


@pytest.mark.parametrize("entries", [0, 63, 65, 128, 511, 1024])
def test_a_table_of_another_size_is_refused(entries):
    with pytest.raises(ValueError, match="64 or 512"):
        Driver("a").vf.set_rss(RssConfig(KEY, bytes(entries)))


def test_a_worker_looks_at_tx_queues_that_run_and_at_no_other():
    _engine, _a, b = rig()
    assert len(b.vf.active_sources()) == QUEUES
    b.vf.disable(0, ALL & ~(1 << 255))
    assert len(b.vf.active_sources()) == 1
    b.vf.disable(0, ALL)
    assert b.vf.active_sources() == []
