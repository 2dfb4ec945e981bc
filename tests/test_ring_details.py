"""What a Rx descriptor tells beside the rest: words of headers, and the time."""

import time

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from emuiavf._phc import phc_ns
from emuiavf._rxdid import Rxdid
from emuiavf.emudev.info import RssConfig, VlanOffload
from tests.test_ring import MAC_A, MAC_B, rig
from tests.test_ring_flows import mark_of, to, udp

ETHER = Ether(src=MAC_A, dst=MAC_B)
V4 = IP(src="1.1.1.1", dst="2.2.2.2", tos=0x2E, ttl=9)
V6 = IPv6(src="fd00::1", dst="fd00::2", tc=0xB8, fl=0xABCDE, hlim=7)
TCP_HEADER = TCP(sport=1, dport=2, flags="SEC", options=[("NOP", None)] * 4)
QINQ = Dot1AD(vlan=100, prio=5, type=0x8100) / Dot1Q(vlan=200, prio=3, dei=1)
NONE = 0xFFFF

# Format, frame, and the two words that must be told of it.
CASES = [
    (Rxdid.FLEX_GENERIC, QINQ / V4 / TCP_HEADER, (None, None)),
    (Rxdid.FLEX_VLAN, V4 / UDP(), (None, None)),
    (Rxdid.FLEX_VLAN, Dot1Q(vlan=0xFED, prio=6, dei=1) / V4, (0xDFED, None)),
    (Rxdid.FLEX_VLAN, QINQ / V4, (0xA064, 0x70C8)),
    (Rxdid.FLEX_VLAN, Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / V4, (1, 2)),
    (Rxdid.FLEX_IPV4, V4 / UDP(), (0x0911, 0x452E)),
    (Rxdid.FLEX_IPV4, QINQ / IP(bytes(V4 / TCP_HEADER)), (0x0906, 0x452E)),
    (Rxdid.FLEX_IPV4, IP(ttl=1, frag=3, proto=17) / Raw(bytes(30)), (0x0111, 0x4500)),
    (Rxdid.FLEX_IPV4, V6 / UDP(), (None, None)),
    (Rxdid.FLEX_IPV4, ARP(), (None, None)),
    (Rxdid.FLEX_IPV6, V6 / UDP(), (0x1107, 0x6B8A)),
    (Rxdid.FLEX_IPV6, V6 / IPv6ExtHdrHopByHop() / UDP(), (0x0007, 0x6B8A)),
    (Rxdid.FLEX_IPV6, V4 / UDP(), (None, None)),
    (Rxdid.FLEX_IPV6_FLOW, Dot1Q(vlan=4) / V6 / UDP(), (0xBCDE, 0x6B8A)),
    (Rxdid.FLEX_IPV6_FLOW, V4 / UDP(), (None, None)),
    (Rxdid.FLEX_TCP, V4 / TCP_HEADER, (0x60C2, None)),
    (Rxdid.FLEX_TCP, V6 / TCP_HEADER, (0x60C2, None)),
    (Rxdid.FLEX_TCP, V6 / IPv6ExtHdrHopByHop() / TCP_HEADER, (0x60C2, None)),
    (Rxdid.FLEX_TCP, V4 / UDP(), (None, None)),
    (Rxdid.FLEX_TCP, IP(frag=3, proto=6) / Raw(bytes(30)), (None, None)),
    (Rxdid.FLEX_IP_OFFSET, V4 / UDP(), (14, NONE)),
    (Rxdid.FLEX_IP_OFFSET, QINQ / V6 / UDP(), (NONE, 22)),
    (Rxdid.FLEX_IP_OFFSET, ARP(), (NONE, NONE)),
]


def wire(packet, size=60) -> bytes:
    data = bytes(ETHER / packet)
    return data + bytes(max(0, size - len(data)))


def receive(engine, a, b, *frames, count=None):
    b.post(16)
    for data in frames:
        a.send(data)
    engine.step()
    got = b.receive()
    assert len(got) == (count or len(frames))
    return got


@pytest.mark.parametrize(("rxdid", "packet", "words"), CASES)
@pytest.mark.parametrize("size", [60, 700], ids=["one buffer", "several"])
def test_words_of_headers_are_told_as_they_came(rxdid, packet, words, size):
    engine, a, b = rig(rx={"rxdid": rxdid, "buffer_size": 256})
    (got,) = receive(engine, a, b, wire(packet, size))
    assert (got.data, got.words) == (wire(packet, size), words)
    assert got.qwords[0] & 0xFF == rxdid


@pytest.mark.parametrize("judge", [True, False])
def test_words_need_neither_rss_nor_checksums(judge):
    engine, a, b = rig(rx={"rxdid": Rxdid.FLEX_IPV4, "judge": judge})
    b.vf.set_rss(RssConfig())
    (got,) = receive(engine, a, b, wire(V4 / UDP()))
    assert got.words == (0x0911, 0x452E)


def test_words_are_of_the_frame_before_its_tags_were_stripped():
    engine, a, b = rig(rx={"rxdid": Rxdid.FLEX_VLAN})
    b.vf.set_vlan(VlanOffload(strip=True, strip_outer=0x88A8))
    (got,) = receive(engine, a, b, wire(QINQ / V4))
    assert (got.words, got.l2tag1, got.qwords[2] >> 48) == ((0xA064, 0x70C8), 0x70C8, 0xA064)


@pytest.mark.parametrize(
    ("flags", "cut"),
    [
        ("PA", [0x5010, 0x5010, 0x5018]),
        ("FA", [0x5010, 0x5010, 0x5011]),
        ("AC", [0x5090, 0x5010, 0x5010]),
    ],
)
def test_flags_of_tcp_are_those_of_each_segment(flags, cut):
    engine, a, b = rig(rx={"rxdid": Rxdid.FLEX_TCP})
    data = wire(V4 / TCP(flags=flags) / Raw(bytes(250)))
    b.post(16)
    context = (0, 1 | 0x10 | 100 << 50)
    a.send(data, cmd=0x160, lengths=(14, 20, 20), context=context)
    engine.step()
    got = b.receive()
    assert [one.words for one in got] == [(flags, None) for flags in cut]
    assert [int.from_bytes(one.data[46:48], "big") for one in got] == cut


@pytest.mark.parametrize("size", [0, 14, 15, 16, 17, 18, 19, 20, 22, 33, 34, 35, 53, 54, 62, 80])
@pytest.mark.parametrize("rxdid", [one for one in Rxdid if one.extracts])
def test_words_end_where_the_frame_does(rxdid, size):
    engine, a, b = rig(rx={"rxdid": rxdid})
    data = bytes(ETHER / QINQ / V4 / TCP_HEADER)[: max(size, 14)]
    (got,) = receive(engine, a, b, data)
    assert got.data == data
    if rxdid == Rxdid.FLEX_VLAN:
        assert got.words == (0xA064 if size >= 16 else None, 0x70C8 if size >= 20 else None)
    elif size < 22 + 20:
        assert got.words in ((None, None), (NONE, NONE))


def test_marks_and_words_stand_together():
    engine, a, b = rig(rx={"rxdid": Rxdid.FLEX_IPV4})
    b.vf.set_flows((to(80, mark=0x12345678),))
    marked, other = receive(engine, a, b, udp(80), udp(81))
    assert (mark_of(marked, 18), marked.words) == ((True, 0x12345678), (0x4011, 0x4500))
    assert (mark_of(other, 18), other.words) == ((False, None), (0x4011, 0x4500))


@pytest.mark.parametrize("rxdid", [one for one in Rxdid if one != Rxdid.LEGACY])
@pytest.mark.parametrize("size", [30, 600], ids=["one buffer", "several"])
def test_stamp_is_the_time_of_the_burst(rxdid, size):
    engine, a, b = rig(rx={"rxdid": rxdid, "timestamps": True, "buffer_size": 256})
    before = phc_ns()
    got = receive(engine, a, b, udp(80, size), udp(81, size))
    after = phc_ns()
    assert after - before < 1 << 32
    assert got[0].time == got[1].time
    assert (got[0].time - before) & 0xFFFF_FFFF <= after - before
    # A stamp is in the place of words of headers, which are not valid then.
    assert got[0].qwords[2] & 0xC000 == 0
    later = receive(engine, a, b, udp(80, size))
    assert 0 < (later[0].time - got[0].time) & 0xFFFF_FFFF < 1 << 31


def test_stamp_and_mark_stand_together():
    for rxdid in (Rxdid.FLEX_NIC, Rxdid.FLEX_OVS, Rxdid.FLEX_IPV4):
        engine, a, b = rig(rx={"rxdid": rxdid, "timestamps": True})
        b.vf.set_flows((to(80, mark=0x12345678),))
        marked, other = receive(engine, a, b, udp(80), udp(81))
        assert mark_of(marked, rxdid) == (True, 0x12345678)
        assert mark_of(other, rxdid) == (False, None)
        assert marked.time == other.time is not None


@pytest.mark.parametrize("rxdid", [Rxdid.LEGACY, Rxdid.FLEX_NIC, Rxdid.FLEX_OVS])
def test_no_stamp_that_was_not_asked_for_or_has_no_place(rxdid):
    engine, a, b = rig(rx={"rxdid": rxdid, "timestamps": rxdid == Rxdid.LEGACY})
    (got,) = receive(engine, a, b, udp(80))
    assert got.unused_are_clear


def test_clock_begins_with_the_time_of_day_and_does_not_step_back():
    assert abs(phc_ns() - time.time_ns()) < 1_000_000_000
    readings = [phc_ns() for _ in range(1000)]
    assert readings == sorted(readings)
