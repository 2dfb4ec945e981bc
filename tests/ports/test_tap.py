"""The TAP port against a socket that stands in for the kernel: every byte of both directions."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from emuiavf.datapath.engine import Engine
from emuiavf.ports._tap import Tap
from emuiavf.stats import RX_COUNTERS, TX_COUNTERS
from tests.fakes.tap import (
    DATA_VALID,
    ECN,
    NEEDS_CSUM,
    TCPV4,
    TCPV6,
    UDP_L4,
    UFO,
    header,
    socket_tap,
)

MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
V4 = {"src": "10.0.0.1", "dst": "10.0.0.2"}
V6 = {"src": "fd00::1", "dst": "fd00::2"}


def ones_sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(packet: Packet, size: int) -> int:
    """Sum of the pseudo header: what a partial checksum field holds."""
    ip = packet[IP] if IP in packet else packet[IPv6]
    family = socket.AF_INET if IP in packet else socket.AF_INET6
    protocol = 6 if TCP in packet else 17
    addresses = socket.inet_pton(family, ip.src) + socket.inet_pton(family, ip.dst)
    return ones_sum(addresses + struct.pack(">II", size, protocol))


@dataclass
class Wire:
    """Two TAP ports, 1:1, and the kernel's end of each."""

    left: socket.socket
    right: socket.socket
    near: Tap
    far: Tap
    engine: Engine = field(default_factory=Engine)

    def cross(self, data: bytes) -> bytes:
        """Send at the left end, receive at the right one."""
        self.left.send(data)
        return self.right.recv(1 << 18)

    def near_row(self) -> dict[str, int]:
        """What the left port brought in, once the engine has stopped."""
        self.engine.stop()
        return {name: int(n) for name, n in zip(TX_COUNTERS, self.near.rows[1], strict=False)}

    def far_row(self) -> dict[str, int]:
        """What came to the right port, once the engine has stopped."""
        self.engine.stop()
        return {name: int(n) for name, n in zip(RX_COUNTERS, self.far.rows[0], strict=False)}


@contextmanager
def connected() -> Iterator[Wire]:
    near, left = socket_tap("near")
    far, right = socket_tap("far", max_frame=3000)
    wire = Wire(left, right, near, far)
    wire.engine.add(near)
    wire.engine.add(far)
    wire.engine.connect(near, far)
    wire.engine.start()
    yield wire
    wire.engine.stop()
    for end in (left, right, near, far):
        end.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with connected() as wire:
        yield wire


def frame(*layers: Packet) -> bytes:
    packet = Ether(**MAC)
    for layer in layers:
        packet /= layer
    return bytes(packet)


PLAIN = frame(IP(**V4) / UDP(sport=1, dport=2) / Raw(b"hello"))


def partial(packet: Packet) -> bytes:
    """The frame with the pseudo header's sum in its checksum field, as Linux leaves it."""
    layer = TCP if TCP in packet else UDP
    size = len(bytes(packet[layer]))
    packet[layer].chksum = pseudo(packet, size)
    return bytes(packet)


# --- Passing through


@pytest.mark.parametrize("size", [14, 60, 127, 128, 129, 1514, 2999])
def test_plain_frame_passes_unchanged(wire: Wire, size: int) -> None:
    data = (PLAIN + bytes(range(256)) * 12)[:size]
    assert wire.cross(header() + data) == header() + data


def test_frames_pass_in_the_other_direction(wire: Wire) -> None:
    wire.right.send(header() + PLAIN)
    assert wire.left.recv(4096) == header() + PLAIN


def test_frames_keep_their_order(wire: Wire) -> None:
    sent = [header() + PLAIN + bytes([number]) * number for number in range(1, 200)]
    received = []
    for data in sent:
        received.append(wire.cross(data))
    assert received == sent


def test_vouched_checksum_stays_vouched(wire: Wire) -> None:
    assert wire.cross(header(DATA_VALID) + PLAIN) == header(DATA_VALID) + PLAIN


@pytest.mark.parametrize(
    ("packet", "start", "offset"),
    [
        (Ether(**MAC) / IP(**V4) / TCP() / Raw(b"x" * 300), 34, 16),
        (Ether(**MAC) / IP(**V4) / UDP() / Raw(b"x" * 301), 34, 6),
        (Ether(**MAC) / IPv6(**V6) / TCP() / Raw(b"x" * 20), 54, 16),
        (Ether(**MAC) / IPv6(**V6) / UDP() / Raw(b"x" * 1000), 54, 6),
        (Ether(**MAC) / Dot1Q(vlan=7) / IP(**V4) / TCP() / Raw(b"x" * 99), 38, 16),
    ],
)
def test_partial_checksum_stays_partial(
    wire: Wire, packet: Packet, start: int, offset: int
) -> None:
    data = header(NEEDS_CSUM, start=start, offset=offset) + partial(packet)
    assert wire.cross(data) == data


@pytest.mark.parametrize(
    ("network", "gso", "start"), [(IP(**V4), TCPV4, 34), (IPv6(**V6), TCPV6, 54)]
)
@pytest.mark.parametrize("size", [1500, 30000, 65000])
def test_large_tcp_frame_passes_whole(
    wire: Wire, network: Packet, gso: int, start: int, size: int
) -> None:
    packet = Ether(**MAC) / network / TCP(seq=5, flags="PA") / Raw(bytes(size))
    data = header(NEEDS_CSUM, gso, start + 20, 1448, start, 16) + partial(packet)
    assert wire.cross(data) == data


def test_large_tcp_frame_with_ecn_keeps_it(wire: Wire) -> None:
    packet = Ether(**MAC) / IP(**V4) / TCP(flags="CA") / Raw(bytes(5000))
    data = header(NEEDS_CSUM, TCPV4 | ECN, 54, 1000, 34, 16) + partial(packet)
    assert wire.cross(data) == data


def test_large_udp_frame_passes_whole(wire: Wire) -> None:
    packet = Ether(**MAC) / IP(**V4) / UDP(sport=9, dport=9) / Raw(bytes(12000))
    data = header(NEEDS_CSUM, UDP_L4, 42, 1200, 34, 6) + partial(packet)
    assert wire.cross(data) == data


# --- Odd headers


def test_checksum_at_an_unknown_place_is_computed(wire: Wire) -> None:
    inner = bytes(IP(**V4) / UDP(sport=1, dport=2, chksum=0) / Raw(b"inside a tunnel"))
    data = bytearray(frame(IP(**V4, proto=47) / Raw(b"\0\0\x08\0" + inner)))
    start = 14 + 20 + 4 + 20
    struct.pack_into(
        ">H",
        data,
        start + 6,
        ones_sum(bytes.fromhex("0a0000010a0000020011") + struct.pack(">H", len(data) - start)),
    )
    received = wire.cross(header(NEEDS_CSUM, start=start, offset=6) + data)
    assert received[:10] == header(DATA_VALID)
    whole = Ether(received[10:])
    good = IP(bytes(whole)[38:])
    expected = good.copy()
    del expected[UDP].chksum
    assert good[UDP].chksum == IP(bytes(expected))[UDP].chksum


TCP_V4 = partial(Ether(**MAC) / IP(**V4) / TCP() / Raw(bytes(5000)))
TCP_V6 = partial(Ether(**MAC) / IPv6(**V6) / TCP() / Raw(bytes(5000)))
UDP_V4 = partial(Ether(**MAC) / IP(**V4) / UDP() / Raw(bytes(5000)))


@pytest.mark.parametrize(
    "data",
    [
        header(),
        b"\0",
        header() + PLAIN[:13],
        header() + bytes(9729),
        header(NEEDS_CSUM, start=34, offset=16) + bytes(9729),
        header(0, TCPV4, 54, 1000, 34, 16) + TCP_V4,
        header(NEEDS_CSUM, TCPV4, 54, 0, 34, 16) + TCP_V4,
        header(NEEDS_CSUM, TCPV4, 54, 1, 34, 16) + TCP_V4,
        header(NEEDS_CSUM, TCPV6, 54, 1000, 34, 16) + TCP_V4,
        header(NEEDS_CSUM, TCPV4, 74, 1000, 54, 16) + TCP_V6,
        header(NEEDS_CSUM, TCPV4, 42, 1000, 34, 6) + UDP_V4,
        header(NEEDS_CSUM, UDP_L4, 54, 1000, 34, 16) + TCP_V4,
        header(NEEDS_CSUM, UFO, 42, 1000, 34, 6) + UDP_V4,
        header(NEEDS_CSUM, 0x7F, 54, 1000, 34, 16) + TCP_V4,
        header(NEEDS_CSUM, TCPV4, 54, 1000, 30, 16) + TCP_V4,
        header(NEEDS_CSUM, TCPV4, 54, 9800, 34, 16) + TCP_V4 + bytes(40000),
        header(NEEDS_CSUM, start=65535, offset=65535) + PLAIN,
        header(NEEDS_CSUM, start=len(PLAIN), offset=0) + PLAIN,
        header(NEEDS_CSUM, start=20, offset=len(PLAIN) - 21) + PLAIN,
    ],
)
def test_bad_frame_is_dropped_and_counted(wire: Wire, data: bytes) -> None:
    wire.left.send(data)
    assert wire.cross(header() + PLAIN) == header() + PLAIN
    row = wire.near_row()
    assert (row["errors"], row["packets"]) == (1, 1)


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """A header whose fields are near what a frame would need, and a frame with bytes changed."""
    data = bytearray(draw(st.sampled_from([PLAIN, TCP_V4, TCP_V6, UDP_V4])))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4)):
        data[min(at, len(data) - 1)] = value
    lengths = st.sampled_from([0, 1, 34, 42, 54, 74, len(data) - 1, len(data), 65535])
    flags = draw(st.sampled_from([0, NEEDS_CSUM, DATA_VALID, 0xFF]))
    gso = draw(st.sampled_from([0, TCPV4, UFO, TCPV6, UDP_L4, TCPV4 | ECN, 0xFF]))
    size = draw(st.sampled_from([0, 1, 536, 1448, 9000, 65535]))
    offset = draw(st.sampled_from([0, 6, 16, 65535]))
    cut = draw(st.integers(0, 200))
    head = header(flags, gso, draw(lengths), size, draw(lengths), offset)
    return head + bytes(data[: len(data) - cut if cut < len(data) else len(data)])


def test_any_input_leaves_the_port_working() -> None:
    mark = header() + b"\xff" * 6 + PLAIN[6:]
    with connected() as wire:

        @settings(max_examples=300, deadline=None)
        @given(inputs())
        def feed(data: bytes) -> None:
            wire.left.send(data)
            wire.left.send(mark)
            received = wire.right.recv(1 << 18)
            # At most the input itself goes before the mark, at its own length.
            if received != mark:
                assert len(received) == len(data)
                assert wire.right.recv(1 << 18) == mark

        feed()


# --- Room and limits


def test_frames_without_room_are_dropped_after_a_while(wire: Wire) -> None:
    wire.far.rows[0] = 0
    sent = 2000
    for _ in range(sent):
        wire.left.send(header() + PLAIN + bytes(1000))
    wire.right.settimeout(0.1)
    received = 0
    try:
        while True:
            wire.right.recv(4096)
            received += 1
    except TimeoutError:
        pass
    row = wire.far_row()
    assert row["no_buffer"] == row["discards"] > 0
    assert row["discarded_bytes"] == row["discards"] * (len(PLAIN) + 1000 + 4)
    assert row["packets"] == received
    assert row["packets"] + row["no_buffer"] == row["unicast"] == sent


@pytest.mark.parametrize(
    "data",
    [
        header() + bytes(3001),
        header(NEEDS_CSUM, TCPV4, 54, 2960, 34, 16) + TCP_V4,
    ],
)
def test_frame_beyond_the_limit_is_dropped_and_counted(wire: Wire, data: bytes) -> None:
    wire.left.send(data)
    assert wire.cross(header() + PLAIN) == header() + PLAIN
    row = wire.far_row()
    assert (row["too_long"], row["discards"], row["packets"]) == (1, 1, 1)


def test_counters_tell_the_kinds_of_frames(wire: Wire) -> None:
    broadcast = b"\xff" * 6 + PLAIN[6:]
    multicast = b"\x33\x33\0\0\0\1" + PLAIN[6:]
    for data in (PLAIN, broadcast, multicast, multicast):
        wire.cross(header() + data)
    wanted = {"unicast": 1, "multicast": 2, "broadcast": 1, "packets": 4, "discards": 0}
    near, far = wire.near_row(), wire.far_row()
    assert {name: near[name] for name in wanted} == wanted
    assert {name: far[name] for name in wanted} == wanted
    assert near["bytes"] == 4 * len(PLAIN)
    assert far["bytes"] == 4 * (len(PLAIN) + 4)


def test_close_closes_the_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    port, outside = socket_tap("port")
    port.close()
    port.close()
    outside.close()
    assert port.active_sources() == []
    assert len(os.listdir("/proc/self/fd")) == before
