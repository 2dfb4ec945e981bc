"""testpmd's csum engine with packets in packets: each that leaves its VF is as scapy builds it.

What our driver sends to the first VF leaves by the second one, into a capture.  net_iavf offers no
UDP segmentation (its 24.11 still refuses RTE_ETH_TX_OFFLOAD_UDP_TSO).
"""

import itertools
from pathlib import Path

import pytest

from tests.dpdk.conftest import Bench
from tests.dpdk.tester import Tester
from tests.dpdk.testpmd import Testpmd
from tests.model.tunnel import KINDS, Tunnel
from tests.vm.harness.backend import wait_until

# Of RTE_ETH_TX_OFFLOAD: segments; IPv4, UDP, TCP, outer IPv4 and outer UDP checksums; TSO, plain
# and in VXLAN, GRE, IPIP and GENEVE.
TUNNELS = 0x8000 | 0x0E | 1 << 7 | 1 << 20 | 1 << 5 | 0xF << 9
OPTIONS = ["--max-pkt-len=9018", "--enable-scatter", "--mbuf-size=2176"]
MSS = 800
PAYLOAD = bytes(range(251)) * 20
# testpmd takes no IPv6 in IP for a tunnel.
SHAPES = [
    Tunnel(kind, outer, inner)
    for kind, outer, inner in itertools.product(KINDS, (4, 6), (4, 6))
    if (kind, inner) != ("ip", 6)
]


def captured(path: Path) -> list[bytes]:
    """What is in the file so far, without a last frame that is there in part."""
    data, at, frames = path.read_bytes(), 24, []
    while len(data) >= at + 16:
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        frames.append(data[at + 16 : at + 16 + size])
        at += 16 + size
    return frames if at == len(data) else frames[:-1]


def prepare(testpmd: Testpmd, outer_udp: str) -> None:
    testpmd("stop")
    testpmd("port stop all")
    for layer in ("ip", "udp", "tcp", "outer-ip"):
        testpmd(f"csum set {layer} hw 1")
    testpmd(f"csum set outer-udp {outer_udp} 1")
    testpmd("csum parse-tunnel on 1")
    testpmd(f"tunnel_tso set {MSS} 1")
    testpmd("port start all")
    for port in (0, 1):
        testpmd.until(f"show port info {port}", "Link status: up")
    testpmd("set fwd csum")
    testpmd("start")


@pytest.mark.newest
@pytest.mark.parametrize("outer_udp", ["hw", "sw"])
def test_packets_in_packets_are_cut_and_finished(bench: Bench, outer_udp: str) -> None:
    """Outer UDP checksums asked for, and packets that have none."""
    path = bench.folder / "out.pcap"
    backend = bench.serve(
        *("--port", f"pcap0,type=pcap,path={path}"),
        *("--connect", "emu_iavf0,emu_iavf2", "--connect", "emu_iavf1,pcap0"),
        devices=3,
    )
    # With hw testpmd asks for all of them, with sw it computes those that are not 0.
    shapes = [one for one in SHAPES if one.kind.endswith("-bare") == (outer_udp == "sw")]
    expected = []
    options = [*OPTIONS, f"--tx-offloads={TUNNELS:#x}"]
    with (
        Tester(bench.folder / "vf2.sock") as tester,
        bench.testpmd(more=[1], options=options) as testpmd,
    ):
        prepare(testpmd, outer_udp)
        for shape in shapes:
            expected += shape.pieces(PAYLOAD, MSS)
            tester.send([bytes(shape.packet(PAYLOAD))])
            for size in (0, 1, 60, 300):
                # Shorter than one piece: not cut, its checksums are asked for.
                expected.append(bytes(shape.packet(PAYLOAD[:size])))
                tester.send([expected[-1]])
        wait_until(lambda: len(captured(path)) >= len(expected), 30, "all frames are captured")
        stats = backend.stats("emu_iavf1")
    # testpmd writes its own addresses.
    assert [data[12:] for data in captured(path)] == [data[12:] for data in expected]
    assert (stats["tx_errors"], stats["tx-0.malicious"]) == (0, 0)
    assert stats["tx-0.segments"] == len(shapes) * -(-len(PAYLOAD) // MSS)
