"""Parser, verdict ranges, hashes, requests and segmentation against scapy and the slow model."""

import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from emuiavf.datapath import _probe
from tests.model import kernels, offload

KEY = bytes(range(1, 53))
ALL_CLASSES = (1 << 64) - 1
PROTOCOL = {_probe.L4_NONE: 0, _probe.L4_TCP: 6, _probe.L4_SCTP: 132, _probe.L4_UDP: 17}
CODE = {value: key for key, value in PROTOCOL.items()}
MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


def ether(**fields: Any) -> Packet:
    return Ether(**MACS, **fields)


def v4(**fields: Any) -> Packet:
    return IP(src="10.1.2.3", dst="192.168.200.9", id=0xFFFE, **fields)


def v6(**fields: Any) -> Packet:
    return IPv6(src="2001:db8::1", dst="fe80::9:8:7", **fields)


def tcp(**fields: Any) -> Packet:
    return TCP(sport=4000, dport=80, seq=0xFFFFFF00, **fields)


def udp(**fields: Any) -> Packet:
    return UDP(sport=4001, dport=81, **fields)


DATA = Raw(bytes(range(256)) * 2)
OPTIONS = [IPOption(b"\x94\x04\x00\x00")]
TYPES: dict[str, tuple[Packet, int]] = {
    "plain Ethernet": (ether(type=0x1234) / DATA, 1),
    "PTP": (ether(type=0x88F7) / DATA, 2),
    "LLDP": (ether(type=0x88CC) / DATA, 6),
    "ARP": (ether() / ARP(), 11),
    "IPv4 fragment, first": (ether() / v4(flags="MF") / udp() / DATA, 22),
    "IPv4 fragment, later": (ether() / v4(frag=3, proto=17) / DATA, 22),
    "IPv4 other": (ether() / v4(proto=47) / DATA, 23),
    "IPv4 UDP": (ether() / v4() / udp() / DATA, 24),
    "IPv4 TCP": (ether() / v4() / tcp() / DATA, 26),
    "IPv4 TCP, don't fragment": (ether() / v4(flags="DF") / tcp() / DATA, 26),
    "IPv4 TCP with options": (ether() / v4() / tcp(options=[("MSS", 1460)]) / DATA, 26),
    "IPv4 options, UDP": (ether() / v4(options=OPTIONS) / udp() / DATA, 24),
    "IPv4 SCTP": (ether() / v4(proto=132) / SCTP() / DATA, 27),
    "IPv4 ICMP": (ether() / v4() / ICMP() / DATA, 28),
    "IPv4 with protocol 58": (ether() / v4(proto=58) / DATA, 23),
    "IPv6 fragment": (ether() / v6() / IPv6ExtHdrFragment(m=1, nh=17) / udp() / DATA, 88),
    "IPv6 atomic fragment": (ether() / v6() / IPv6ExtHdrFragment(nh=17) / udp() / DATA, 88),
    "IPv6 other": (ether() / v6(nh=59) / DATA, 89),
    "IPv6 UDP": (ether() / v6() / udp() / DATA, 90),
    "IPv6 TCP": (ether() / v6() / tcp() / DATA, 92),
    "IPv6 SCTP": (ether() / v6(nh=132) / SCTP() / DATA, 93),
    "IPv6 ICMPv6": (ether() / v6() / ICMPv6EchoRequest() / DATA, 94),
    "IPv6 hop-by-hop, TCP": (ether() / v6() / IPv6ExtHdrHopByHop() / tcp() / DATA, 92),
    "IPv6 destination options, UDP": (ether() / v6() / IPv6ExtHdrDestOpt() / udp() / DATA, 90),
    "IPv6 routing, at its end": (
        ether() / v6() / IPv6ExtHdrRouting(addresses=["::1"], segleft=0) / udp() / DATA,
        90,
    ),
    "IPv6 routing, on its way": (
        ether() / v6() / IPv6ExtHdrRouting(addresses=["::1"], segleft=1) / udp() / DATA,
        89,
    ),
    "one tag": (ether() / Dot1Q(vlan=5, prio=3) / v4() / udp() / DATA, 24),
    "two tags": (ether() / Dot1AD(vlan=7) / Dot1Q(vlan=5) / v6() / tcp() / DATA, 92),
    "three tags": (ether() / Dot1Q() / Dot1Q() / Dot1Q() / v4() / udp() / DATA, 1),
    "tagged ARP": (ether() / Dot1Q() / ARP(), 11),
}
WITH_L4 = {name: packet for name, (packet, ptype) in TYPES.items() if ptype in (24, 26, 90, 92)}


def known_by(probe: _probe.Probe) -> offload.Known:
    """The parser's answer in the model's words."""
    got = probe.parse()
    flags = got["flags"]
    version = 4 if flags & _probe.IPV4 else 6 if flags & _probe.IPV6 else 0
    return offload.Known(
        ptype=got["ptype"],
        version=version,
        l2=got["l2"],
        l3=got["l3"] if version else 0,
        protocol=PROTOCOL[got["proto"]],
        fragment=bool(flags & _probe.FRAGMENT),
        ip_bad=bool(flags & _probe.IP_BAD),
        tci=got["tci"] if flags & _probe.TAGGED else None,
    )


def is_right(probe: _probe.Probe, frame: bytes) -> bool | None:
    """Verdict on the L4 checksum, as a receiving ring finds it."""
    covered = probe.l4_range()
    if covered is None:
        return None
    start, end, _field = covered
    total = _probe.csum(frame[start:end]) + probe.pseudo(end - start)
    return total % 0xFFFF == 0


def judged(frame: bytes) -> tuple[int | None, bool | None]:
    """What the model says of a frame that is wholly in its head: hash and verdict."""
    known = offload.parse(frame)
    covered = offload.l4_range(frame, known)
    if covered is None:
        verdict = None
    elif known.protocol == offload.SCTP:
        start, end, field = covered
        sent = frame[field : field + 4]
        packet = frame[start:field] + bytes(4) + frame[field + 4 : end]
        verdict = kernels.crc32c(packet).to_bytes(4, "little") == sent
    else:
        start, end, _field = covered
        whole = offload.pseudo(frame, known, end - start) + frame[start:end]
        verdict = kernels.csum(whole) == 0xFFFF
    return offload.rss(frame, known, KEY, ALL_CLASSES), verdict


TSO = _probe.ASK_TSO
L4 = _probe.ASK_L4_CSUM


def request(frame: bytes, flags: int, **changes: int) -> _probe.Probe:
    """A sender's request with lengths and protocol as they are in the bytes, but for `changes`."""
    known = offload.parse(frame[:128])
    at = known.l2 + known.l3
    asked = {
        "l2_len": known.l2,
        "l3_len": known.l3,
        "l4_len": {6: (frame[at + 12] >> 4) * 4 if len(frame) > at + 12 else 0, 17: 8}.get(
            known.protocol, 0
        ),
        "l4_proto": CODE[known.protocol],
    }
    return _probe.Probe(frame, flags=flags, **{**asked, **changes})


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.trap(28)
def test_packet_type(name: str) -> None:
    packet, ptype = TYPES[name]
    assert _probe.Probe(bytes(packet)).parse()["ptype"] == ptype


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("filler", [0x00, 0x45, 0xFF])
def test_every_head_length_agrees_with_the_model(name: str, filler: int) -> None:
    data = bytes(TYPES[name][0])
    for head_len in range(129):
        expected = offload.parse(data[:head_len])
        probe = _probe.Probe(data, head_len=head_len, filler=filler)
        assert known_by(probe) == expected
        assert probe.l4_range() == offload.l4_range(data, expected)
        assert probe.hash(KEY, ALL_CLASSES) == offload.rss(data, expected, KEY, ALL_CLASSES)


def frames() -> st.SearchStrategy[bytes]:
    """Packets with a few bytes changed, cut and padded, and plain noise."""
    known = st.sampled_from([bytes(packet) for packet, _ in TYPES.values()])
    changes = st.lists(st.tuples(st.integers(12, 90), st.integers(0, 255)), max_size=4)

    def change(data: bytes, edits: list[tuple[int, int]], size: int) -> bytes:
        out = bytearray(data.ljust(92, b"\0"))
        for at, value in edits:
            out[at] = value
        return bytes(out[:size])

    return st.one_of(st.builds(change, known, changes, st.integers(0, 600)), st.binary())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=frames(), head_len=st.integers(0, 128), filler=st.sampled_from([0, 0x11, 0xFF]))
def test_hostile_frames_agree_with_the_model(data: bytes, head_len: int, filler: int) -> None:
    expected = offload.parse(data[:head_len])
    probe = _probe.Probe(data, head_len=head_len, filler=filler)
    assert known_by(probe) == expected
    assert probe.l4_range() == offload.l4_range(data, expected)
    assert probe.hash(KEY, ALL_CLASSES) == offload.rss(data, expected, KEY, ALL_CLASSES)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=frames(), size=st.integers(0, 128), filler=st.sampled_from([0, 0x45, 0xFF]))
def test_hostile_frames_are_judged_as_by_the_model(data: bytes, size: int, filler: int) -> None:
    probe = _probe.Probe(data[:size], filler=filler)
    assert probe.judge(KEY, ALL_CLASSES) == judged(data[:size])


@pytest.mark.parametrize("name", WITH_L4)
@pytest.mark.trap(27)
def test_verdict_right_and_wrong(name: str) -> None:
    good = bytes(WITH_L4[name])
    bad = good[:-1] + bytes([good[-1] ^ 1])
    for frame, verdict in ((good, True), (good + b"padding", True), (bad, False)):
        probe = _probe.Probe(frame)
        probe.parse()
        assert is_right(probe, frame) is verdict


@pytest.mark.parametrize("ip", [v4(), v6(), v6() / IPv6ExtHdrDestOpt()], ids=["4", "6", "6 long"])
@pytest.mark.trap(27)
def test_verdict_udp_without_checksum_has_nothing_to_check(ip: Packet) -> None:
    """Over IPv6 it is that of a tunnel (RFC 6936); the receiver knows whether it takes it."""
    frame = bytes(ether() / ip / udp(chksum=0) / DATA)
    probe = _probe.Probe(frame)
    probe.parse()
    assert probe.l4_range() is None
    assert _probe.Probe(frame).judge(KEY, ALL_CLASSES)[1] is None


def test_verdict_ipv4_header_checksum_wrong() -> None:
    assert _probe.Probe(bytes(ether() / v4(chksum=1) / udp())).parse()["flags"] & _probe.IP_BAD


def test_verdict_ipv4_header_checksum_is_not_judged_when_left_to_us() -> None:
    frame = bytes(ether() / v4(chksum=0) / udp())
    probe = _probe.Probe(frame, flags=_probe.ASK_IP_CSUM, l2_len=14, l3_len=20)
    assert not probe.parse()["flags"] & _probe.IP_BAD


SMALL = {name: packet for name, packet in WITH_L4.items() if "tags" not in name} | {
    "IPv4 SCTP": TYPES["IPv4 SCTP"][0],
    "IPv6 SCTP": TYPES["IPv6 SCTP"][0],
}


def small(name: str, size: int) -> tuple[bytes, int]:
    """A frame of SMALL with `size` bytes of payload, and where its checksum lies."""
    packet = SMALL[name].copy()
    packet[Raw].load = bytes(range(size))
    frame = bytes(packet)
    known = offload.parse(frame)
    return frame, known.l2 + known.l3 + offload.FIELD[known.protocol]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 31])
def test_settle_judges_a_frame_in_its_head(name: str, size: int) -> None:
    frame, field = small(name, size)
    for data, verdict in ((frame, True), (frame[:field] + b"\1\2" + frame[field + 2 :], False)):
        probe = _probe.Probe(data)
        probe.parse()
        assert probe.settle() == (data, verdict)
        assert _probe.Probe(data).judge(KEY, ALL_CLASSES) == judged(data)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 31])
def test_settle_fills_in_what_was_asked_for(name: str, size: int) -> None:
    frame, field = small(name, size)
    width = 4 if "SCTP" in name else 2
    probe = request(frame[:field] + b"\xa5" * width + frame[field + width :], L4)
    assert probe.check_request()
    assert probe.settle() == (frame, True)


def test_settle_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    frame = bytes(ether() / v4() / udp(chksum=0) / b"\0\0")
    rest = int.from_bytes(_probe.csum(frame[34:], b"").to_bytes(2, sys.byteorder), "big")
    probe = _probe.Probe(frame)
    probe.parse()
    rest += int.from_bytes(probe.pseudo(len(frame) - 34).to_bytes(2, sys.byteorder), "big")
    zero = frame[:-2] + (-rest % 0xFFFF).to_bytes(2, "big")
    asked = request(zero, L4)
    assert asked.check_request()
    assert asked.settle()[0][40:42] == b"\xff\xff"


@pytest.mark.parametrize("bit", range(64))
def test_hash_classes(bit: int) -> None:
    for packet, _ptype in TYPES.values():
        data = bytes(packet)
        probe = _probe.Probe(data)
        probe.parse()
        # The finer classes of UDP and TCP are hashed like 31, 33, 41 and 43.
        coarse = {29: 31, 30: 31, 32: 33, 39: 41, 40: 41, 42: 43}.get(bit, bit)
        expected = offload.rss(data, offload.parse(data[:128]), KEY, 1 << coarse)
        assert probe.hash(KEY, 1 << bit) == expected


@pytest.mark.parametrize("name", TYPES)
def test_fill_ip_csum(name: str) -> None:
    data = bytes(TYPES[name][0])
    known = offload.parse(data[:128])
    if known.version == 4:
        at = known.l2 + 10
        probe = _probe.Probe(
            data[:at] + b"\xab\xcd" + data[at + 2 :], l2_len=known.l2, l3_len=known.l3
        )
        assert probe.fill_ip_csum() == data[:128]


# ---- what senders ask for ----


@pytest.mark.parametrize("name", WITH_L4)
@pytest.mark.parametrize("mss", [0, 300])
def test_request_accepted(name: str, mss: int) -> None:
    flags = _probe.ASK_L4_CSUM | (_probe.ASK_TSO if mss else 0)
    assert request(bytes(WITH_L4[name]), flags, mss=mss).check_request()


PLAIN = bytes(ether() / v4() / tcp() / DATA)


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        (L4, {"l2_len": 13}),
        (L4, {"l2_len": 18}),
        (L4, {"l2_len": 127}),
        (L4, {"l2_len": 65535}),
        (L4, {"l3_len": 0}),
        (L4, {"l3_len": 24}),
        (L4, {"l3_len": 65535}),
        (L4, {"l4_proto": _probe.L4_UDP}),
        (L4, {"l4_proto": _probe.L4_SCTP}),
        (L4, {"l4_proto": _probe.L4_NONE}),
        (TSO, {"mss": 0}),
        (TSO, {"l4_len": 0}),
        (TSO, {"l4_len": 16}),
        (TSO, {"l4_len": 24}),
        (TSO, {"l4_len": 252}),
    ],
)
def test_request_refused(flags: int, changes: dict[str, int]) -> None:
    assert request(PLAIN, flags, mss=100).check_request()
    assert not request(PLAIN, flags, **{"mss": 100, **changes}).check_request()


@pytest.mark.parametrize(
    ("packet", "flags"),
    [
        (ether() / v6() / tcp() / DATA, _probe.ASK_IP_CSUM),
        (ether() / v4(flags="MF") / udp() / DATA, L4),
        (ether() / v4(len=30) / tcp() / DATA, L4),
        (ether() / ARP(), _probe.ASK_IP_CSUM),
        (ether() / v4(proto=132) / SCTP() / DATA, TSO),
        (ether() / v4() / tcp(), TSO),
    ],
)
def test_request_refused_by_its_bytes(packet: Packet, flags: int) -> None:
    assert not request(bytes(packet), flags, mss=100).check_request()


def test_request_tso_number_and_size_of_segments_are_bounded() -> None:
    frame = bytes(ether() / v4(len=0) / tcp()) + bytes(4096 * 2)
    assert request(frame, TSO, mss=2).check_request()
    assert not request(frame + b"x", TSO, mss=2).check_request()
    large = bytes(ether() / v4(len=0) / tcp()) + bytes(20000)
    assert request(large, TSO, mss=9728 - 54).check_request()
    assert not request(large, TSO, mss=9728 - 53).check_request()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=frames(),
    flags=st.integers(0, 7),
    lengths=st.tuples(
        st.sampled_from([14, 18, 22]) | st.integers(0, 140),
        st.sampled_from([20, 24, 40, 48, 64]) | st.integers(0, 140),
        st.sampled_from([8, 20, 24]) | st.integers(0, 140),
    ),
    proto=st.integers(0, 3),
    mss=st.integers(0, 300),
    head_len=st.integers(0, 128),
)
def test_hostile_requests_do_not_depend_on_bytes_outside(
    data: bytes, flags: int, lengths: tuple[int, ...], proto: int, mss: int, head_len: int
) -> None:
    def answers(filler: int) -> list[Any]:
        probe = _probe.Probe(
            data,
            head_len=head_len,
            flags=flags,
            l2_len=lengths[0],
            l3_len=lengths[1],
            l4_len=lengths[2],
            l4_proto=proto,
            mss=mss,
            filler=filler,
        )
        if not probe.check_request():
            return []
        found = [probe.parse(), probe.l4_range(), probe.hash(KEY, ALL_CLASSES)]
        if flags & TSO:
            found.append(probe.segment_header(0))
        return [*found, probe.seed_partial()]

    assert answers(0) == answers(0xFF)


# ---- segmentation ----


def cut(frame: bytes, flags: int, mss: int) -> list[bytes]:
    """The segments as a receiving ring makes them: header, payload, L4 checksum on top."""
    probe = request(frame, flags, mss=mss)
    assert probe.check_request()
    known = offload.parse(frame[:128])
    made, at = [], 0
    start = known.l2 + known.l3
    header_len = len(probe.segment_header(0)[0])
    while header_len + at < len(frame):
        header, payload = probe.segment_header(at)
        body = bytearray(header + frame[header_len + at : header_len + at + payload])
        total = _probe.csum(body[start:]) + probe.pseudo(len(body) - start)
        value = -total % 0xFFFF or (0xFFFF if known.protocol == 17 else 0)
        field = start + offload.FIELD[known.protocol]
        body[field : field + 2] = value.to_bytes(2, sys.byteorder)
        made.append(bytes(body))
        at += payload
    return made


@pytest.mark.parametrize("name", WITH_L4)
@pytest.mark.parametrize("mss", [1, 7, 64, 256, 511, 512, 513, 9000])
def test_segments_byte_for_byte(name: str, mss: int) -> None:
    packet = WITH_L4[name].copy()
    if TCP in packet:
        packet[TCP].flags = "FPUAECS"
    frame = bytes(packet)
    known = offload.parse(frame[:128])
    l4_len = len(bytes(packet[TCP if TCP in packet else UDP])) - 512
    assert cut(frame, TSO, mss) == offload.segments(frame, known, l4_len, mss)


@pytest.mark.parametrize("ip", [v4(), v6()])
def test_segments_are_right_to_scapy(ip: Packet) -> None:
    frame = bytes(ether() / ip / tcp(flags="FPA", options=[("NOP", None)] * 12) / (DATA.load * 9))
    for segment in cut(frame, TSO, 1448):
        again = Ether(segment)
        del again[TCP].chksum
        if IP in again:
            del again[IP].chksum
            del again[IP].len
        else:
            del again[IPv6].plen
        assert bytes(again) == segment


def test_segments_lengths_of_the_whole_do_not_matter() -> None:
    """Linux and DPDK leave the IP length of a frame to be segmented 0."""
    asked = bytes(ether() / v4(len=0, chksum=0) / tcp(chksum=0x1234) / DATA)
    assert cut(asked, TSO, 100) == cut(PLAIN, TSO, 100)


# ---- for ports that take partial checksums and large frames ----


@pytest.mark.parametrize("name", WITH_L4)
@pytest.mark.parametrize("flags", [L4, TSO | L4])
def test_seed_partial_completes_to_the_right_checksum(name: str, flags: int) -> None:
    """What virtio-net does: sum from the L4 header to the end, the seed included."""
    frame = bytes(WITH_L4[name])
    known = offload.parse(frame[:128])
    probe = request(frame, flags, mss=100)
    assert probe.check_request()
    seeded = probe.seed_partial() + frame[128:]
    start = known.l2 + known.l3
    field = start + offload.FIELD[known.protocol]
    value = kernels.csum(seeded[start:]) ^ 0xFFFF
    assert seeded[:field] + value.to_bytes(2, sys.byteorder) + seeded[field + 2 :] == frame


def test_seed_partial_restores_the_lengths_of_a_large_frame() -> None:
    whole = bytes(ether() / v4() / udp() / DATA)
    blank = bytes(ether() / v4(len=0, chksum=0) / udp(len=0, chksum=0) / DATA)
    expected = request(whole, TSO, mss=100)
    probe = request(blank, TSO, mss=100)
    assert expected.check_request()
    assert probe.check_request()
    assert probe.seed_partial() == expected.seed_partial()
