"""Rules at the ring: marks in every format, held frames, counters, several buffers, no rules."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from emuiavf.emudev.info import (
    FlowAction,
    FlowBase,
    FlowRule,
    FlowWord,
    HashInput,
    RssConfig,
    VlanOffload,
)
from tests.test_ring import MAC_A, MAC_B, frame, rig

EVERY = frozenset(range(22, 29))
PORT = FlowWord(FlowBase.L4, 0, 0xFFFF)
RULE_DROPS = 14


def udp(port: int, size: int = 30) -> bytes:
    headers = Ether(src=MAC_A, dst=MAC_B) / IP(src="1.1.1.1", dst="2.2.2.2")
    return bytes(headers / UDP(sport=9, dport=port) / Raw(bytes(size)))


def to(port: int, number: int = 0, **rest: object) -> FlowRule:
    return FlowRule(number, frozenset({24}), (PORT,), (port,), **rest)  # type: ignore[arg-type]


def mark_of(received, rxdid):
    """(matched, mark) as a driver reads them; a flexible format does not tell the first alone."""
    words = received.qwords
    if rxdid == 1:
        has_id = words[2] >> 4 & 3 == 1
        return bool(words[1] >> 11 & 1), words[3] >> 32 if has_id else None
    mark = words[1] >> 32 if rxdid == 22 else words[3] & 0xFFFF_FFFF
    return mark != 0xFFFF_FFFF, None if mark == 0xFFFF_FFFF else mark


@pytest.mark.parametrize("rxdid", [1, 2, 22])
@pytest.mark.parametrize("size", [30, 600], ids=["one buffer", "several"])
@pytest.mark.trap(25)
def test_mark_stands_where_the_format_has_it_and_nothing_else_changes(rxdid, size):
    engine, a, b = rig(rx={"rxdid": rxdid, "buffer_size": 256})
    b.vf.set_rss(RssConfig(bytes(range(52)), bytes(64), 1 << 31))
    b.post(16)
    a.send(udp(80, size))
    a.send(udp(81, size))
    engine.step()
    plain = b.receive()
    b.vf.set_flows((to(80, mark=0x12345678),))
    b.post(16)
    a.send(udp(80, size))
    a.send(udp(81, size))
    engine.step()
    marked, other = b.receive()
    assert mark_of(marked, rxdid) == (True, 0x12345678)
    assert mark_of(other, rxdid) == (False, None)
    assert other.qwords == plain[1].qwords
    for seen in ("data", "ptype", "hash", "hashed", "l3l4p", "errors", "buffers"):
        assert getattr(marked, seen) == getattr(plain[0], seen)


def test_matched_rule_without_a_mark_is_told_in_the_legacy_format_only():
    engine, a, b = rig()
    b.vf.set_flows((to(80),))
    b.post(4)
    a.send(udp(80))
    engine.step()
    (received,) = b.receive()
    assert mark_of(received, 1) == (True, None)
    assert received.qwords[2:] == (0, 0)


def test_stripped_tag_and_mark_stand_together():
    engine, a, b = rig()
    b.vf.set_vlan(VlanOffload(strip=True))
    b.vf.set_flows((to(80, mark=5),))
    b.post(4)
    data = udp(80)
    a.send(data[:12] + b"\x81\x00\x00\x07" + data[12:])
    engine.step()
    (received,) = b.receive()
    assert (received.data, received.l2tag1, mark_of(received, 1)) == (data, 7, (True, 5))


def test_dropped_frames_are_counted_as_such():
    engine, a, b = rig()
    b.vf.set_flows((to(80, 3, action=FlowAction.DROP),))
    b.post(8)
    for port in (80, 81, 80):
        a.send(udp(port))
    engine.step()
    assert [r.data for r in b.receive()] == [udp(81)]
    row = b.rows[0]
    assert (row[4], row[RULE_DROPS], row[6]) == (2, 2, 1)
    assert b.vf.flow_hits() == {3: 2}


def test_frames_behind_a_held_one_count_once():
    engine, a, b = rig()
    rules = (to(80, 0, mark=1), to(81, 1, action=FlowAction.DROP))
    b.vf.set_flows(rules)
    b.post(2)
    for port in (80, 81, 80, 80, 81, 80):
        a.send(udp(port))
    engine.step(3)
    assert len(b.receive()) == 2
    assert b.vf.flow_hits() == {0: 2, 1: 1}
    b.post(8)
    engine.step(3)
    assert len(b.receive()) == 2
    assert b.vf.flow_hits() == {0: 4, 1: 2}
    assert b.rows[0][RULE_DROPS] == 2


def test_queue_of_a_rule_comes_before_that_of_the_hash_and_0_serves_what_is_off():
    engine, a, b = rig(rx={"queues": 3})
    for queue in range(3):
        b.post(8, queue)
    off = to(81, 1, action=FlowAction.QUEUE, queue=200)
    b.vf.set_flows((to(80, 0, action=FlowAction.QUEUE, queue=2), off))
    a.send(udp(80))
    a.send(udp(81))
    engine.step()
    assert [len(b.receive(queue)) for queue in range(3)] == [1, 0, 1]


def test_counter_begins_with_its_rule():
    engine, a, b = rig()
    b.post(8)
    b.vf.set_flows((to(80),))
    a.send(udp(80))
    engine.step()
    b.vf.set_flows((to(80), to(81, 1)))
    assert b.vf.flow_hits() == {0: 1, 1: 0}
    b.vf.set_flows(())
    assert b.vf.flow_hits() == {}
    b.vf.set_flows((to(80),))
    assert b.vf.flow_hits() == {0: 0}


def test_frame_that_ends_before_a_bit_that_counts_matches_nothing():
    engine, a, b = rig()
    b.post(8)
    last = FlowWord(FlowBase.FRAME, 60, 0x0000_FF00)
    b.vf.set_flows((FlowRule(0, None, (last,), (0,), FlowAction.DROP),))
    for size in (61, 62, 63, 64):
        a.send(frame(14) + bytes(size - 14))
    engine.step()
    assert [len(r.data) for r in b.receive()] == [61, 62]


def test_a_hundred_and_twenty_eight_rules_of_one_pattern():
    engine, a, b = rig(rx={"ring_len": 256})
    b.post(200)
    b.vf.set_flows(tuple(to(port, port - 1, mark=port) for port in range(1, 129)))
    for port in range(1, 31):
        a.send(udp(5 * port))
    engine.step(2)
    marks = [mark_of(r, 1)[1] for r in b.receive()]
    assert marks == [5 * n if 5 * n <= 128 else None for n in range(1, 31)]


@pytest.mark.parametrize(
    "rules",
    [
        (to(1, 128),),
        (to(1, -1),),
        (to(1, 5), to(2, 5)),
        (FlowRule(0, None, (PORT,) * 33, (0,) * 33),),
        tuple(FlowRule(n, None, (FlowWord(FlowBase.FRAME, n),), (0,)) for n in range(33)),
    ],
    ids=["id too high", "id too low", "id twice", "too many words", "too many patterns"],
)
def test_rules_that_make_no_table_are_refused(rules):
    _engine, _a, b = rig()
    b.vf.set_flows((to(7),))
    with pytest.raises((ValueError, OverflowError), match=r"rule|words|convert"):
        b.vf.set_flows(rules)
    assert b.vf.flow_hits() == {0: 0}


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        ({26: HashInput((PORT,) * 25)}, bytes(52)),
        ({26: HashInput((PORT,), ((0, 1),))}, bytes(52)),
        ({256: HashInput((PORT,))}, bytes(52)),
        ({26: HashInput((PORT,))}, bytes(40)),
    ],
)
def test_hash_inputs_that_make_no_table_are_refused(inputs, key):
    _engine, _a, b = rig()
    with pytest.raises(ValueError, match=r"words|pair|packet type|key"):
        b.vf.set_rss(RssConfig(key, bytes(64), 0, inputs=inputs))


def test_two_rules_of_one_key_slot_are_told_apart_by_their_values():
    engine, a, b = rig()
    b.post(60)
    words = (FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L3, 16), FlowWord(FlowBase.L4))
    headers = Ether(src=MAC_A, dst=MAC_B)
    rules, sent = [], []
    for n in range(40):
        packet = headers / IP(src=f"10.0.{n}.1", dst="10.9.9.9") / TCP(sport=n, dport=80)
        data = bytes(packet)
        values = tuple(int.from_bytes(data[at : at + 4], "big") for at in (26, 30, 34))
        rules.append(FlowRule(n, EVERY, words, values, mark=1000 + n))
        sent.append(data)
    b.vf.set_flows(tuple(rules))
    for data in sent[:30]:
        a.send(data)
    engine.step(2)
    assert [mark_of(r, 1)[1] for r in b.receive()] == [1000 + n for n in range(30)]
