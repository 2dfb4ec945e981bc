"""Packets in packets: what is asked for the inner one, cut and finished as scapy builds them."""

import itertools
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from emuiavf.datapath import _probe
from tests.model.tunnel import INNER_L4, KINDS, Places, Tunnel, blanked

TSO, IP_CSUM, L4_CSUM, TUNNEL = (
    _probe.ASK_TSO,
    _probe.ASK_IP_CSUM,
    _probe.ASK_L4_CSUM,
    _probe.TUNNEL,
)
PAYLOAD = bytes(range(251)) * 21
EVERY = [
    Tunnel(kind, outer, inner, l4)
    for kind, outer, inner, l4 in itertools.product(KINDS, (4, 6), (4, 6), ("tcp", "udp"))
]
SOME = [
    *(Tunnel(kind, outer, inner) for kind in KINDS for outer, inner in ((4, 6), (6, 4))),
    Tunnel("vxlan", l4="udp"),
    Tunnel("vxlan", l4="sctp"),
    Tunnel("gre", 6, 6, "sctp"),
    Tunnel("ip", 6, 4, extension=True),
]


def name_of(tunnel: Tunnel) -> str:
    return f"{tunnel.kind}-{tunnel.outer}-{tunnel.inner}-{tunnel.l4}"


def asked(data: bytes, places: Places, shape: Tunnel, cut_at: int = 0, **changes: Any) -> Any:
    """The request as a Tx ring makes it of descriptors; its inner l3_len beside it."""
    flags = TUNNEL | (TSO if cut_at else 0)
    if shape.outer == 4:
        flags |= IP_CSUM
    if shape.outer_csum:
        flags |= L4_CSUM
    bits = (3 if shape.outer == 4 else 1) | shape.l4tunt << 2
    bits |= _probe.TUNNEL_KEEP_ID * shape.keep_id
    bits |= _probe.TUNNEL_ASK_IP_CSUM * (shape.inner == 4)
    bits |= INNER_L4[shape.l4][0] << _probe.TUNNEL_L4_SHIFT
    words: dict[str, Any] = {
        "flags": flags,
        "l2_len": places.outer,
        "l3_len": places.l4 - places.outer,
        "l4_len": INNER_L4[shape.l4][1],
        "l4_proto": _probe.L4_NONE,
        "tunnel": bits,
        "tunnel_len": places.inner - places.l4,
        "mss": cut_at,
        "head_len": min(len(data), _probe.HEAD_MAX),
    }
    return _probe.Probe(data, **{**words, **changes})


def inner_l3(tunnel: Tunnel) -> int:
    return 20 if tunnel.inner == 4 else 40


def split(size: int, part: int) -> list[int]:
    return [part] * (size // part) + ([size % part] if size % part else [])


def cut(packet: Packet, tunnel: Tunnel, mss: int, part: int = 700, strip: int = 0) -> list[bytes]:
    """The segments as a receiving ring gets them, in buffers of `part` bytes."""
    data = blanked(packet, tunnel, large=True)
    places = Places.of(packet, tunnel)
    probe = asked(data, places, tunnel, mss)
    assert probe.check_tunnel(inner_l3(tunnel))
    header = places.inner_l4 + INNER_L4[tunnel.l4][1]
    made = []
    for at in range(0, len(data) - header, mss):
        size = header + min(mss, len(data) - header - at) - strip
        rest = len(data) - min(len(data), _probe.HEAD_MAX)
        made.append(probe.emit(split(rest, 1000), split(size, part), at=at, strip=strip)[0])
    return made


def finished(data: bytes, probe: Any, part: int = 700) -> tuple[bytes, bool | None]:
    rest = len(data) - min(len(data), _probe.HEAD_MAX)
    found: tuple[bytes, bool | None] = probe.emit(split(rest, 333), split(len(data), part))
    return found


@pytest.mark.parametrize("tunnel", EVERY, ids=name_of)
@pytest.mark.parametrize("mss", [64, 1001])
def test_segments_byte_for_byte(tunnel: Tunnel, mss: int) -> None:
    payload = PAYLOAD[: 40 * mss]
    flags = 0xC1 | 0x18  # CWR, ECE, FIN, PSH, ACK
    expected = tunnel.pieces(payload, mss, flags)
    assert cut(tunnel.packet(payload, flags=flags), tunnel, mss) == expected


def test_segments_of_one_outer_id() -> None:
    tunnel = Tunnel("vxlan", keep_id=True)
    assert cut(tunnel.packet(PAYLOAD), tunnel, 900) == tunnel.pieces(PAYLOAD, 900)


def test_segments_behind_a_destination_options_header() -> None:
    for inner in (4, 6):
        tunnel = Tunnel("ip", 6, inner, extension=True)
        assert cut(tunnel.packet(PAYLOAD), tunnel, 900) == tunnel.pieces(PAYLOAD, 900)


@pytest.mark.parametrize("part", [1, 17, 64, 4000])
def test_segments_into_buffers_of_any_size(part: int) -> None:
    tunnel = Tunnel("geneve", 6, 6)
    payload = PAYLOAD[:3000]
    got = cut(tunnel.packet(payload), tunnel, 999, max(part, 60))
    assert got == tunnel.pieces(payload, 999)


def test_segments_with_tags_in_front_and_without_them() -> None:
    tunnel = Tunnel("vxlan")
    tags = Dot1AD(vlan=5) / Dot1Q(vlan=6)

    tag = bytes(Ether() / tags / IP())[12:20]

    def tagged(data: bytes) -> bytes:
        return data[:12] + tag + data[12:]

    whole = blanked(tunnel.packet(PAYLOAD), tunnel, large=True)
    places = Places.of(tunnel.packet(PAYLOAD), tunnel)
    data = tagged(whole)
    moved = Places(*(place + 8 for place in vars(places).values()))
    probe = asked(data, moved, tunnel, 1000)
    assert probe.check_tunnel(20)
    header = moved.inner_l4 + 32
    expected = tunnel.pieces(PAYLOAD, 1000)
    for number, at in enumerate(range(0, len(data) - header, 1000)):
        size = header + min(1000, len(data) - header - at)
        rest = len(data) - _probe.HEAD_MAX
        assert probe.emit([rest], [size], at=at)[0] == tagged(expected[number])
        assert probe.emit([rest], [size - 8], at=at, strip=8)[0] == expected[number]


@pytest.mark.parametrize("tunnel", SOME, ids=name_of)
@pytest.mark.parametrize("size", [0, 1, 9, 200, 1401])
def test_checksums_of_one_packet(tunnel: Tunnel, size: int) -> None:
    packet = tunnel.packet(PAYLOAD[:size])
    data = blanked(packet, tunnel, large=False)
    probe = asked(data, Places.of(packet, tunnel), tunnel)
    assert probe.check_tunnel(inner_l3(tunnel))
    for trailer in (b"", b"padding"):
        padded = asked(data + trailer, Places.of(packet, tunnel), tunnel)
        assert padded.check_tunnel(inner_l3(tunnel))
        # Behind the outer packet: in no checksum.
        got, verdict = finished(data + trailer, padded)
        assert got == bytes(packet) + trailer
        assert verdict is (True if tunnel.outer_csum else None)


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_outer_checksum_of_the_senders_own_is_judged(wrong: int) -> None:
    """Linux computes it itself of a frame that is not to be cut: the inner sum is known to it."""
    tunnel = Tunnel("vxlan", 4, 6)
    packet = tunnel.packet(PAYLOAD[:1000])
    places = Places.of(packet, tunnel)
    data = bytearray(bytes(packet))
    data[places.inner_l4 + 16 : places.inner_l4 + 18] = b"\1\2"
    data[places.l4 + 7] ^= wrong
    probe = asked(bytes(data), places, tunnel, flags=TUNNEL)
    assert probe.check_tunnel(40)
    got, verdict = finished(bytes(data), probe)
    assert verdict is not bool(wrong)
    assert got[places.inner :] == bytes(packet)[places.inner :]


def test_the_outer_packet_is_what_a_receiver_hears_of() -> None:
    for tunnel, ptype in ((Tunnel("vxlan"), 24), (Tunnel("vxlan", 6), 90), (Tunnel("gre"), 23)):
        packet = tunnel.packet(PAYLOAD)
        probe = asked(blanked(packet, tunnel, True), Places.of(packet, tunnel), tunnel, 900)
        assert probe.check_tunnel(20)
        found = probe.parse()
        assert found["ptype"] == ptype
        assert not found["flags"] & _probe.IP_BAD
        assert probe.hash(bytes(range(52)), (1 << 64) - 1) is not None
        # The inner headers are still where they were.
        assert probe.emit([len(probe.data) - 256], [5000], at=0)[0][: Places.of(packet, tunnel).l4]


BASE = Tunnel("vxlan", 4, 4)


@pytest.mark.parametrize("mss", [0, 500], ids=["whole", "cut"])
@pytest.mark.parametrize(
    "changes",
    [
        {"l2_len": 12},
        {"l2_len": 16},
        {"l2_len": 254},
        {"l3_len": 0},
        {"l3_len": 24},
        {"l3_len": 508},
        {"tunnel_len": 0},
        {"tunnel_len": 6},
        {"tunnel_len": 28},
        {"tunnel_len": 32},
        {"tunnel_len": 254},
        {"eipt": 1},
        {"l4tunt": 0},
        {"l4tunt": 2},
        {"l4tunt": 3},
        {"l4": _probe.L4_UDP},
        {"l4": _probe.L4_SCTP},
    ],
    ids=str,
)
def test_lengths_and_kinds_that_the_packet_has_not_are_refused(
    changes: dict[str, int], mss: int
) -> None:
    packet = BASE.packet(PAYLOAD[:1500])
    places = Places.of(packet, BASE)
    data = blanked(packet, BASE, large=bool(mss))
    assert asked(data, places, BASE, mss).check_tunnel(20)
    words = {"eipt": 3, "l4tunt": 1, "l4": _probe.L4_TCP, **changes}
    bits = words.pop("eipt") | words.pop("l4tunt") << 2 | _probe.TUNNEL_ASK_IP_CSUM
    bits |= words.pop("l4") << _probe.TUNNEL_L4_SHIFT
    probe = asked(data, places, BASE, mss, tunnel=bits, **words)
    assert not probe.check_tunnel(20)


def test_the_inner_ip_length_of_the_descriptor_must_be_the_packets() -> None:
    packet = BASE.packet(PAYLOAD[:1500])
    for mss in (0, 500):
        probe = asked(blanked(packet, BASE, bool(mss)), Places.of(packet, BASE), BASE, mss)
        assert not probe.check_tunnel(24)


@pytest.mark.parametrize(
    "changes", [{"mss": 0}, {"l4_len": 0}, {"l4_len": 20}, {"l4_len": 60}], ids=str
)
def test_what_cannot_be_cut_is_refused(changes: dict[str, int]) -> None:
    packet = BASE.packet(PAYLOAD)
    data = blanked(packet, BASE, large=True)
    assert not asked(data, Places.of(packet, BASE), BASE, 500, **changes).check_tunnel(20)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("outer", 40),
        ("outer", 9000),
        ("udp", 7),
        ("udp", 60),
        ("udp", 9000),
        ("inner", 19),
        ("inner", 9000),
        ("inner", 1553),
    ],
)
def test_tunnels_that_claim_other_lengths_are_refused(where: str, value: int) -> None:
    packet = BASE.packet(PAYLOAD[:1500])
    places = Places.of(packet, BASE)
    data = bytearray(blanked(packet, BASE, large=False))
    at = {"outer": places.outer + 2, "udp": places.l4 + 4, "inner": places.inner + 2}[where]
    struct.pack_into(">H", data, at, value)
    assert not asked(bytes(data), places, BASE).check_tunnel(20)


def test_gre_header_longer_than_the_tunnel_is_refused() -> None:
    packet = Tunnel("gre").packet(PAYLOAD)
    places = Places.of(packet, Tunnel("gre"))
    for flags, good in ((0x0000, True), (0x2000, False), (0x8000, False), (0x1000, False)):
        data = bytearray(blanked(packet, Tunnel("gre"), large=True))
        struct.pack_into(">H", data, places.l4, flags)
        probe = asked(bytes(data), places, Tunnel("gre"), 900)
        assert probe.check_tunnel(20) is good


def test_headers_must_lie_in_the_head() -> None:
    packet = BASE.packet(PAYLOAD)
    data, places = blanked(packet, BASE, large=True), Places.of(packet, BASE)
    header = places.inner_l4 + 32
    for size in range(header + 1):
        found = asked(data, places, BASE, 500, head_len=size).check_tunnel(20)
        assert found is (size == header)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    tunnel=st.sampled_from(EVERY + SOME),
    size=st.integers(0, 900),
    edits=st.lists(st.tuples(st.integers(12, 200), st.integers(0, 255)), max_size=3),
    words=st.fixed_dictionaries(
        {},
        optional={
            "flags": st.integers(0, 7).map(lambda flags: flags | TUNNEL),
            "l2_len": st.sampled_from([14, 16, 18]) | st.integers(0, 254),
            "l3_len": st.sampled_from([20, 24, 40, 48]) | st.integers(0, 508),
            "l4_len": st.sampled_from([8, 20, 32]) | st.integers(0, 60),
            "tunnel": st.integers(0, 255),
            "tunnel_len": st.sampled_from([0, 4, 8, 30]) | st.integers(0, 254),
            "mss": st.integers(0, 300),
            "head_len": st.integers(0, 256),
        },
    ),
    inner=st.sampled_from([20, 40]) | st.integers(0, 508),
)
def test_hostile_requests_are_bounded(
    tunnel: Tunnel, size: int, edits: list[tuple[int, int]], words: dict[str, int], inner: int
) -> None:
    """What is accepted is delivered without a byte read or written beside where it belongs."""
    packet = tunnel.packet(PAYLOAD[:size])
    data = bytearray(bytes(packet))
    for at, value in edits:
        if at < len(data):
            data[at] = value
    places = Places.of(packet, tunnel)
    words["head_len"] = min(words.get("head_len", _probe.HEAD_MAX), len(data))

    def answers(filler: int) -> list[Any]:
        probe = asked(bytes(data), places, tunnel, **{"mss": 200, **words}, filler=filler)
        if not probe.check_tunnel(inner):
            return []
        head = words["head_len"]
        rest = split(len(data) - head, 400)
        flags = words.get("flags", TUNNEL)
        if not flags & TSO:
            return [probe.emit(rest, split(len(data), 150))]
        header = (
            words.get("l2_len", places.outer)
            + words.get("l3_len", places.l4 - places.outer)
            + words.get("tunnel_len", places.inner - places.l4)
            + inner
            + words.get("l4_len", INNER_L4[tunnel.l4][1])
        )
        mss, payload = words.get("mss", 200), len(data) - header
        assert payload > 0
        assert mss > 0
        last = (payload - 1) // mss * mss
        return [
            probe.emit(rest, split(header + min(mss, payload - at), 300), at=at) for at in (0, last)
        ]

    assert answers(0) == answers(0xFF)
