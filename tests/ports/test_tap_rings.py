"""From a VF's Tx ring to a TAP and back: what a guest asks for is passed on to the kernel."""

import os
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from emuiavf.datapath.engine import Engine
from emuiavf.ports._tap import Tap
from tests.fakes.tap import NEEDS_CSUM, TCPV4, TCPV6, UDP_L4, header, socket_tap
from tests.model.tunnel import INNER_L4, Places, Tunnel, blanked
from tests.ports.test_tap import pseudo
from tests.rings import Driver

IIPT6, IIPT4_CSUM = 0x20, 0x60
TCP_CSUM, SCTP_CSUM, UDP_CSUM = 0x100, 0x200, 0x300
MAC = {"src": "52:54:00:00:00:0a", "dst": "52:54:00:00:00:0b"}
V4 = {"src": "10.0.0.1", "dst": "10.0.0.2", "id": 77}
V6 = {"src": "fd00::1", "dst": "fd00::2"}


class Rig:
    """A driver's VF and a TAP, 1:1; step() makes turns of the engine's one worker."""

    def __init__(self, large_udp: bool = True) -> None:
        self.driver = Driver("guest")
        self.driver.enable()
        self.tap: Tap
        self.tap, self.kernel = socket_tap("tap", large_udp=large_udp)
        self.kernel.setblocking(False)
        self.engine = Engine(hold_s=10.0)
        self.engine.add(self.driver.vf)
        self.engine.add(self.tap)
        self.engine.connect(self.driver.vf, self.tap)

    def step(self, turns: int = 1) -> None:
        self.engine.step(turns)

    def received(self) -> list[bytes]:
        """What the kernel has got."""
        frames = []
        try:
            while True:
                frames.append(self.kernel.recv(1 << 18))
        except BlockingIOError:
            return frames


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.tap.close()
    rig.kernel.close()


def whole(packet: Packet) -> Packet:
    return Ether(bytes(packet))


def blank(packet: Packet) -> bytes:
    """As a driver leaves it: no IPv4 checksum, anything in the L4 field."""
    packet = whole(packet)
    if IP in packet:
        packet[IP].chksum = 0
    packet.lastlayer().underlayer.chksum = 0x1234
    return bytes(packet)


def seeded(packet: Packet, field: int, size: int) -> bytes:
    """With the pseudo header's sum in the L4 field, computed by hand: 10.0.0.1, 10.0.0.2, 6."""
    data = bytearray(bytes(packet))
    total = 0x0A00 + 0x0001 + 0x0A00 + 0x0002 + 6 + size
    struct.pack_into(">H", data, field, (total & 0xFFFF) + (total >> 16))
    return bytes(data)


def test_frame_of_many_buffers_is_one_write(rig: Rig) -> None:
    data = bytes(Ether(**MAC) / Raw(bytes(range(250)) * 20))
    rig.driver.send(data, pieces=[100, 28, 1, 2000, len(data) - 2129])
    rig.step()
    assert rig.received() == [header() + data]


def test_checksum_request_becomes_a_partial_checksum(rig: Rig) -> None:
    packet = whole(Ether(**MAC) / IP(**V4) / TCP() / Raw(bytes(700)))
    rig.driver.send(blank(packet), cmd=TCP_CSUM | IIPT4_CSUM, lengths=(14, 20, 20))
    rig.step()
    expected = header(NEEDS_CSUM, start=34, offset=16) + seeded(packet, 50, 720)
    assert rig.received() == [expected]


def test_sctp_checksum_is_computed_here(rig: Rig) -> None:
    packet = whole(Ether(**MAC) / IP(**V4) / SCTP(sport=1, dport=2) / Raw(bytes(range(200))))
    data = bytearray(bytes(packet))
    data[42:46] = b"junk"
    rig.driver.send(bytes(data), cmd=SCTP_CSUM | IIPT4_CSUM, lengths=(14, 20, 12))
    rig.step()
    assert rig.received() == [header() + bytes(packet)]


def send_large(rig: Rig, packet: Packet, mss: int, cmd: int, l4_len: int, size: int) -> None:
    data = blank(packet)
    network = 20 if IP in packet else 40
    headers = 14 + network + l4_len
    context = (0, 1 | 0x10 | size << 30 | mss << 50)
    pieces = [headers]
    while sum(pieces) < len(data):
        pieces.append(min(16000, len(data) - sum(pieces)))
    rig.driver.send(data, pieces=pieces, cmd=cmd, lengths=(14, network, l4_len), context=context)


@pytest.mark.parametrize(
    ("network", "gso", "cmd", "headers"),
    [(IP(**V4), TCPV4, TCP_CSUM | IIPT4_CSUM, 54), (IPv6(**V6), TCPV6, TCP_CSUM | IIPT6, 74)],
)
def test_segmentation_request_passes_whole(
    rig: Rig, network: Packet, gso: int, cmd: int, headers: int
) -> None:
    packet = whole(Ether(**MAC) / network / TCP(seq=9, flags="PA") / Raw(os.urandom(60000)))
    send_large(rig, packet, 1448, cmd, 20, 60000)
    rig.step()
    (got,) = rig.received()
    assert got[:10] == header(NEEDS_CSUM, gso, headers, 1448, headers - 20, 16)
    without_field = slice(headers - 4, headers - 2)
    data, expected = bytearray(got[10:]), bytearray(bytes(packet))
    data[without_field] = expected[without_field] = b"\0\0"
    assert data == expected


def test_udp_segmentation_request_passes_in_pieces_of_64_datagrams(rig: Rig) -> None:
    payload = os.urandom(40000)
    packet = whole(Ether(**MAC) / IP(**V4) / UDP(sport=1, dport=2) / Raw(payload))
    send_large(rig, packet, 400, UDP_CSUM | IIPT4_CSUM, 8, 40000)
    rig.step()
    got = rig.received()
    assert {data[:10] for data in got} == {header(NEEDS_CSUM, UDP_L4, 42, 400, 34, 6)}
    assert [len(data) - 52 for data in got] == [25600, 14400]
    assert b"".join(data[52:] for data in got) == payload
    assert [Ether(data[10:])[UDP].len for data in got] == [25608, 14408]
    assert [Ether(data[10:])[IP].id for data in got] == [77, 77 + 64]


def test_udp_segmentation_is_done_here_for_an_old_kernel() -> None:
    rig = Rig(large_udp=False)
    payload = os.urandom(3000)
    for network, cmd in ((IP(**V4), IIPT4_CSUM), (IPv6(**V6), IIPT6)):
        packet = whole(Ether(**MAC) / network / UDP(sport=1, dport=2) / Raw(payload))
        send_large(rig, packet, 1200, UDP_CSUM | cmd, 8, len(payload))
        rig.step()
        got = rig.received()
        start = 14 + (20 if IP in packet else 40)
        assert {data[:10] for data in got} == {header(NEEDS_CSUM, start=start, offset=6)}
        for number, data in enumerate(got):
            part = payload[1200 * number :][:1200]
            made = Ether(**MAC) / network.copy() / UDP(sport=1, dport=2) / Raw(part)
            if IP in made:
                made[IP].id += number
            made[UDP].chksum = pseudo(Ether(bytes(made)), 8 + len(part))
            assert data[10:] == bytes(made)
    rig.tap.close()
    rig.kernel.close()


def test_segmentation_beyond_64_kib_goes_in_pieces(rig: Rig) -> None:
    payload = os.urandom(150000)
    packet = Ether(**MAC) / IP(**V4, len=0) / TCP(seq=1, flags="PA") / Raw(payload)
    send_large(rig, packet, 1000, TCP_CSUM | IIPT4_CSUM, 20, 150000)
    rig.step()
    got = [Ether(data[10:]) for data in rig.received()]
    assert [part[TCP].seq for part in got] == [1, 65001, 130001]
    assert [part[IP].len for part in got] == [65040, 65040, 20040]
    assert [part[IP].id for part in got] == [77, 142, 207]
    assert [str(part[TCP].flags) for part in got] == ["A", "A", "PA"]
    assert b"".join(bytes(part[TCP].payload) for part in got) == payload
    recomputed = [part.copy() for part in got]
    for part in recomputed:
        del part[IP].chksum
    assert [part[IP].chksum for part in got] == [
        Ether(bytes(part))[IP].chksum for part in recomputed
    ]


TUNNELS = [
    Tunnel("vxlan", 4, 6),
    Tunnel("vxlan-bare", 4, 4, "sctp"),
    Tunnel("geneve", 6, 4, "udp"),
    Tunnel("gre-key", 6, 6),
    Tunnel("gre-tap", 4, 4, "sctp"),
    Tunnel("ip", 4, 4),
]


def send_tunnelled(rig: Rig, tunnel: Tunnel, payload: bytes, mss: int = 0) -> None:
    packet = tunnel.packet(payload)
    places = Places.of(packet, tunnel)
    code, l4_len = INNER_L4[tunnel.l4]
    word = (3 if tunnel.outer == 4 else 1) | (places.l4 - places.outer) // 4 << 2
    word |= tunnel.l4tunt << 9 | (places.inner - places.l4) // 2 << 12 | tunnel.outer_csum << 23
    data = blanked(packet, tunnel, large=bool(mss))
    header_len = places.inner_l4 + l4_len
    pieces = [header_len // 2, header_len - header_len // 2]
    while sum(pieces) < len(data):
        pieces.append(min(701, len(data) - sum(pieces)))
    rig.driver.send(
        data,
        pieces=pieces,
        cmd=(IIPT4_CSUM if tunnel.inner == 4 else IIPT6) | code << 8,
        lengths=(places.outer, places.inner_l4 - places.inner, l4_len),
        context=(word, 1 | (0x10 | mss << 50 if mss else 0)),
    )


@pytest.mark.parametrize("tunnel", TUNNELS, ids=str)
@pytest.mark.parametrize("size", [1, 90, 1300])
def test_packet_in_a_packet_is_finished_here(rig: Rig, tunnel: Tunnel, size: int) -> None:
    """Linux has one place for a checksum: a second one would go out wrong."""
    payload = os.urandom(size)
    send_tunnelled(rig, tunnel, payload)
    rig.step()
    assert rig.received() == [header() + bytes(tunnel.packet(payload))]


@pytest.mark.parametrize("tunnel", [one for one in TUNNELS if one.l4 != "sctp"], ids=str)
def test_large_packet_in_a_packet_is_cut_here(rig: Rig, tunnel: Tunnel) -> None:
    payload = os.urandom(30000)
    send_tunnelled(rig, tunnel, payload, 1380)
    rig.step()
    assert rig.received() == [header() + data for data in tunnel.pieces(payload, 1380)]


def fill_up(rig: Rig, room: int) -> None:
    """Leave room for so many frames in the kernel's queue."""
    while True:
        try:
            os.write(rig.tap.fd, b"filler")
        except BlockingIOError:
            break
    for _ in range(room):
        rig.kernel.recv(16)


def test_large_packet_in_a_packet_goes_on_where_it_stopped(rig: Rig) -> None:
    fill_up(rig, 3)
    payload = os.urandom(9000)
    send_tunnelled(rig, TUNNELS[0], payload, 1000)
    got: list[bytes] = []
    for _ in range(4):
        rig.step()
        got += [data[10:] for data in rig.received() if data != b"filler"]
    assert got == TUNNELS[0].pieces(payload, 1000)
    assert rig.driver.tx_done(rig.driver.tx_next[0] - 1)


def test_large_packet_in_a_packet_that_its_guest_makes_shorter_has_ended(rig: Rig) -> None:
    fill_up(rig, 3)
    payload = os.urandom(9000)
    first = rig.driver.tx_next[0]
    send_tunnelled(rig, TUNNELS[0], payload, 1000)
    rig.step()
    sent = [data[10:] for data in rig.received() if data != b"filler"]
    assert sent == TUNNELS[0].pieces(payload, 1000)[: len(sent)]
    assert sent
    # Context, two of headers, one of 701 bytes; the rest becomes a frame of its own.
    word = rig.driver.tx_ring[0] + (first + 3) * 16 + 8
    rig.driver.put_qwords(word, rig.driver.qword(word) | 0x10)
    rig.step(2)
    assert [data for data in rig.received() if len(data) < 1000] == []
    assert rig.driver.tx_done(rig.driver.tx_next[0] - 1)


def test_large_frame_without_room_goes_on_where_it_stopped(rig: Rig) -> None:
    payload = os.urandom(150000)
    packet = Ether(**MAC) / IP(**V4, len=0) / TCP(seq=1) / Raw(payload)
    fill_up(rig, 1)
    send_large(rig, packet, 1000, TCP_CSUM | IIPT4_CSUM, 20, 150000)
    got: list[bytes] = []
    for _ in range(3):
        rig.step()
        got += [data for data in rig.received() if data != b"filler"]
    assert [Ether(data[10:])[TCP].seq for data in got] == [1, 65001, 130001]
    assert rig.driver.tx_done(rig.driver.tx_next[0] - 1)


def test_buffer_whose_page_has_vanished_costs_that_frame_only(rig: Rig) -> None:
    # A write() from lost pages fails with EFAULT: no signal, and no fault of the port.
    good = bytes(Ether(**MAC) / Raw(bytes(500)))
    rig.driver.top = 16 << 20
    rig.driver.send(bytes(Ether(**MAC) / Raw(bytes(9000))), pieces=[14, 9000])
    rig.driver.send(good)
    # The first frame's head lies in its first page; the rest of it is gone, and so is `good`.
    os.ftruncate(rig.driver.fd, (16 << 20) + 4096)
    rig.step()
    received = rig.received()
    assert rig.tap.rows[0][10] == 1
    assert [len(data) for data in received] == [10 + len(good)]
    assert rig.driver.mem.broken


def test_frames_from_the_kernel_wait_for_the_guest(rig: Rig) -> None:
    sent = [bytes(Ether(**MAC) / Raw(bytes([n]) * 100)) for n in range(5)]
    for data in sent:
        rig.kernel.send(header() + data)
    rig.step(3)
    rig.driver.post(2)
    rig.step()
    first = [frame.data for frame in rig.driver.receive()]
    rig.driver.post(10)
    rig.step()
    assert first + [frame.data for frame in rig.driver.receive()] == sent
    assert len(first) == 2


def test_large_frame_from_the_kernel_is_cut_for_the_guest(rig: Rig) -> None:
    payload = os.urandom(5000)
    packet = whole(Ether(**MAC) / IP(**V4) / TCP(seq=10, flags="PA", chksum=0) / Raw(payload))
    rig.kernel.send(header(NEEDS_CSUM, TCPV4, 54, 1448, 34, 16) + bytes(packet))
    rig.driver.post(3)
    rig.step()
    rig.driver.post(10)
    rig.step()
    got = [Ether(frame.data) for frame in rig.driver.receive()]
    assert [part[TCP].seq for part in got] == [10, 1458, 2906, 4354]
    assert b"".join(bytes(part[TCP].payload) for part in got) == payload
    recomputed = [part.copy() for part in got]
    for part in recomputed:
        del part[IP].chksum, part[TCP].chksum
    assert [bytes(part) for part in got] == [bytes(part) for part in recomputed]
