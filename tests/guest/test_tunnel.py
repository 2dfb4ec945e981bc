"""Packets in packets from one VF to another: our driver's descriptors, our device's segments."""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from emuiavf._rxdid import Rxdid
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.frames import L4, Frame, Iipt, L4tunt, TxFrame
from emuiavf.guest.frames import Tunnel as Carrier
from tests.guest.test_vlan import DEADLINE_S, Bench
from tests.model.tunnel import INNER_L4, KINDS, Places, Tunnel, blanked

PAYLOAD = bytes(range(251)) * 60
EVERY = [
    Tunnel(kind, outer, inner) for kind, outer, inner in itertools.product(KINDS, (4, 6), (4, 6))
]
SOME = [Tunnel("vxlan", 4, 6), Tunnel("geneve-bare", 6, 4), Tunnel("gre-key"), Tunnel("ip", 6, 6)]


@pytest.fixture(scope="module", params=Rxdid, ids=lambda rxdid: rxdid.name)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VfDriver, VfDriver]]:
    with ExitStack() as stack:
        bench = Bench(tmp_path_factory.mktemp("tunnel"), stack)
        yield bench.start(rxdid=request.param, buf_size=2048)


def asked(tunnel: Tunnel, payload: bytes, mss: int = 0, vlan: int | None = None) -> TxFrame:
    """The packet as a driver hands it over, with every checksum left to the device."""
    packet = tunnel.packet(payload)
    places = Places.of(packet, tunnel)
    code, l4_len = INNER_L4[tunnel.l4]
    carrier = Carrier(
        Iipt.IPV4_CSUM if tunnel.outer == 4 else Iipt.IPV6,
        L4tunt(tunnel.l4tunt),
        places.l4 - places.outer,
        places.inner - places.l4,
        tunnel.outer_csum,
        tunnel.keep_id,
    )
    return TxFrame(
        blanked(packet, tunnel, large=bool(mss)),
        Iipt.IPV4_CSUM if tunnel.inner == 4 else Iipt.IPV6,
        L4(code),
        places.outer,
        places.inner_l4 - places.inner,
        l4_len,
        mss,
        vlan,
        tunnel=carrier,
    )


def exchange(pair: tuple[VfDriver, VfDriver], frame: TxFrame, count: int) -> list[Frame]:
    first, second = pair
    got: list[Frame] = []
    assert first.queues[0].send([frame]) == 1
    deadline = time.monotonic() + DEADLINE_S
    while len(got) < count:
        got += second.queues[0].receive()
        assert time.monotonic() < deadline, f"{len(got)} of {count} came"
    return got


@pytest.mark.parametrize("tunnel", EVERY, ids=str)
def test_segments(pair: tuple[VfDriver, VfDriver], tunnel: Tunnel) -> None:
    expected = tunnel.pieces(PAYLOAD, 1300)
    got = exchange(pair, asked(tunnel, PAYLOAD, 1300), len(expected))
    assert [frame.data for frame in got] == expected
    assert all(frame.checksums_good for frame in got)
    ptype = (24 if tunnel.outer == 4 else 90) if tunnel.l4tunt == 1 else 23
    assert {frame.ptype for frame in got} <= {ptype, 89}


@pytest.mark.parametrize("tunnel", SOME, ids=str)
@pytest.mark.parametrize("size", [0, 30, 1200])
def test_checksums(pair: tuple[VfDriver, VfDriver], tunnel: Tunnel, size: int) -> None:
    (frame,) = exchange(pair, asked(tunnel, PAYLOAD[:size]), 1)
    assert frame.data == bytes(tunnel.packet(PAYLOAD[:size]))


def test_segments_get_the_tag_that_is_asked_for(pair: tuple[VfDriver, VfDriver]) -> None:
    tunnel = Tunnel("vxlan", 4, 4)
    pair[1].settings.set_vlan_strip(False)
    expected = tunnel.pieces(PAYLOAD, 1000)
    got = exchange(pair, asked(tunnel, PAYLOAD, 1000, vlan=0x2005), len(expected))
    tag = bytes.fromhex("81002005")
    assert [frame.data for frame in got] == [one[:12] + tag + one[12:] for one in expected]


@pytest.mark.parametrize("network", [IP(src="10.0.0.1", dst="10.0.0.2", id=5), IPv6()])
def test_datagrams_of_one_large_one(pair: tuple[VfDriver, VfDriver], network: IP | IPv6) -> None:
    """USO: no tunnel, the same cutting."""
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    whole = bytes(ether / network / UDP(sport=9, dport=10) / Raw(PAYLOAD))
    expected = []
    for number, at in enumerate(range(0, len(PAYLOAD), 1200)):
        piece = ether / network.copy() / UDP(sport=9, dport=10) / Raw(PAYLOAD[at : at + 1200])
        if IP in piece:
            piece[IP].id += number
        expected.append(bytes(piece))
    got = exchange(pair, TxFrame.offloaded(whole, mss=1200), len(expected))
    assert [frame.data for frame in got] == expected


def test_a_tunnel_that_is_none_is_dropped_and_counted(pair: tuple[VfDriver, VfDriver]) -> None:
    first, _second = pair
    tunnel = Tunnel("vxlan", 4, 4)
    good = asked(tunnel, PAYLOAD, 1000)
    assert good.tunnel
    before = first.stats().tx_errors
    for length in (0, 8, 28, 254):
        wrong = Carrier(Iipt.IPV4_CSUM, L4tunt.UDP, 20, length)
        bad = TxFrame(good.data, good.iipt, good.l4, 14, 20, 32, 1000, tunnel=wrong)
        assert first.queues[0].send([bad]) == 1
    expected = tunnel.pieces(PAYLOAD, 1000)
    assert [frame.data for frame in exchange(pair, good, len(expected))] == expected
    assert first.stats().tx_errors == before + 4
