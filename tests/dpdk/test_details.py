"""What testpmd's net_iavf is told of frames beside their bytes: words of headers, and the time.

Both are in fields of an mbuf.  testpmd prints the time alone; words are read from its memory, where
they stay after the mbuf is given back.
"""

import contextlib
import re
import struct
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.dpdk.conftest import Bench
from tests.dpdk.tester import Tester
from tests.dpdk.testpmd import Testpmd
from tests.model import extract

RXDIDS = {
    "vlan": extract.VLAN,
    "ipv4": extract.IPV4,
    "ipv6": extract.IPV6,
    "ipv6_flow": extract.IPV6_FLOW,
    "tcp": extract.TCP,
    "ip_offset": extract.IP_OFFSET,
}
LOG = "--log-level=lib.mbuf:8"
MARKER = b"testpmd is told "
V4, V6 = IP(src="1.1.1.1", dst="2.2.2.2"), IPv6(src="fd00::1", dst="fd00::2")
# Of an mbuf: its buffer's address, its flags, and where data begins by default.
OL_FLAGS, SIZE, HEADROOM = 24, 128, 128


def frames(name: str = "") -> list[bytes]:
    """Of every kind that a format tells something of, all of them hashed; `name` is in each."""
    packets: list[Packet] = [
        V4 / UDP(),
        IP(bytes(V4 / TCP(flags="SEC"))),
        IP(bytes(IP(tos=0xB9, ttl=3) / TCP(flags="PAU"))),
        V6 / UDP(),
        IPv6(bytes(IPv6(tc=0xB8, fl=0xABCDE, hlim=77) / TCP(flags="FA"))),
        Dot1Q(vlan=0xFED, prio=6) / V4 / TCP(flags="A"),
        Dot1AD(vlan=100, prio=5, type=0x8100) / Dot1Q(vlan=200, prio=3) / V6 / UDP(),
    ]
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    return [
        bytes(ether / packet / Raw(MARKER + f"{name} {number}".ljust(30).encode()))
        for number, packet in enumerate(packets)
    ]


def metadata(rxdid: int, frame: bytes) -> int:
    """What net_iavf makes of the words; 0 where it does not set the flag."""
    first, second = extract.words(rxdid, frame)
    if rxdid == extract.IP_OFFSET:
        told = [word for word in (first, second) if word != 0xFFFF]
        return (told or [0])[0] or 0
    return (first or 0) | (second or 0) << 16


def registered(testpmd: Testpmd, kind: str, name: str) -> int:
    """Where the field stands in an mbuf, or which bit the flag is."""
    said = testpmd.said.decode(errors="replace")
    found = re.search(rf"Registered dynamic {kind} \w*{name} \(.*?-> (\d+)", said)
    assert found, f"no {kind} {name} in\n{said}"
    return int(found[1])


def memory_of(testpmd: Testpmd) -> list[tuple[int, bytes]]:
    """All of DPDK's memory, with its addresses."""
    (pid,) = Path(f"/proc/{testpmd.pid}/task/{testpmd.pid}/children").read_text().split()
    areas = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            start, end = (int(word, 16) for word in place.split("-"))
            if rights.startswith("rw") and 16 << 20 <= end - start <= 256 << 20:
                # Some that are not DPDK's have no pages behind them.
                with contextlib.suppress(OSError):
                    memory.seek(start)
                    areas.append((start, memory.read(end - start)))
    return areas


def mbufs_of(testpmd: Testpmd, sent: list[bytes]) -> list[bytes]:
    """The head of the mbuf that has each frame."""
    found: dict[bytes, bytes] = {}
    for start, area in memory_of(testpmd):
        for place in re.finditer(re.escape(MARKER), area):
            for frame in sent:
                data = place.start() - frame.index(MARKER)
                mbuf = data - HEADROOM - SIZE
                if mbuf < 0 or area[data : data + len(frame)] != frame:
                    continue
                if struct.unpack_from("<Q", area, mbuf)[0] == start + mbuf + SIZE:
                    found[frame] = area[mbuf : mbuf + SIZE]
    return [found[frame] for frame in sent]


def told(testpmd: Testpmd, mbufs: list[bytes], protocol: str) -> list[int]:
    """The metadata of each frame, 0 without the flag of the protocol."""
    bit = registered(testpmd, "flag", f"proto_xtr_{protocol}")
    field = registered(testpmd, "field", "proto_xtr_metadata")
    return [
        struct.unpack_from("<I", mbuf, field)[0]
        if struct.unpack_from("<Q", mbuf, OL_FLAGS)[0] >> bit & 1
        else 0
        for mbuf in mbufs
    ]


def received(testpmd: Testpmd, count: int) -> None:
    """Until so many frames have been taken from the rings, not only put into them."""
    testpmd.until("show fwd stats all", rf"RX-packets: {count} ")


@pytest.mark.newest
def test_words_of_headers_reach_the_program_as_each_queue_asks(bench: Bench) -> None:
    """All frames go to one queue after the other, by the table of RSS."""
    asked = ",".join(f"{queue}:{protocol}" for queue, protocol in enumerate(RXDIDS))
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2, options=",queues=8")
    with (
        Tester(bench.folder / "vf1.sock") as tester,
        bench.testpmd(
            devargs=f"proto_xtr=[{asked}]", eal=[LOG], options=["--rxq=7", "--txq=7"]
        ) as testpmd,
    ):
        testpmd("set fwd rxonly")
        testpmd("port config all rss all")
        testpmd("start")
        count = 0
        for queue, protocol in enumerate([*RXDIDS, "none"]):
            for first in range(0, 64, 16):  # more are too long for its parser
                table = ",".join(f"({entry},{queue})" for entry in range(first, first + 16))
                assert "Bad arguments" not in testpmd(f"port config 0 rss reta {table}")
            sent = frames(protocol)
            tester.send(sent)
            count += len(sent)
            received(testpmd, count)
            mbufs = mbufs_of(testpmd, sent)
            for other, rxdid in RXDIDS.items():
                expected = [metadata(rxdid, frame) for frame in sent]
                assert len(set(expected)) > 1
                wanted = expected if other == protocol else [0] * len(sent)
                assert told(testpmd, mbufs, other) == wanted, (protocol, other)


@pytest.mark.parametrize("protocol", ["vlan", "ip_offset"])
def test_words_of_headers_are_asked_for_all_queues(bench: Bench, protocol: str) -> None:
    sent = [*frames(), bytes(Ether(dst="02:00:00:00:00:02") / ARP() / Raw(MARKER + bytes(30)))]
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with (
        Tester(bench.folder / "vf1.sock") as tester,
        bench.testpmd(devargs=f"proto_xtr={protocol}", eal=[LOG]) as testpmd,
    ):
        testpmd("set fwd rxonly")
        testpmd("start")
        tester.send(sent)
        received(testpmd, len(sent))
        expected = [metadata(RXDIDS[protocol], frame) for frame in sent]
        assert told(testpmd, mbufs_of(testpmd, sent), protocol) == expected


@pytest.mark.newest
@pytest.mark.parametrize("bits", [64, 256])
def test_frames_have_the_time_of_the_clock(bench: Bench, bits: int) -> None:
    """One at a time with breaks: testpmd has to extend the 32 bits by what it asks."""
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    sent = frames()
    with (
        Tester(bench.folder / "vf1.sock") as tester,
        bench.testpmd(
            options=["--enable-rx-timestamp"], eal=[f"--force-max-simd-bitwidth={bits}"]
        ) as testpmd,
    ):
        testpmd("set fwd rxonly")
        testpmd("set verbose 1")
        testpmd("start")
        asked = time.monotonic_ns()
        clock = tester.vf.phc_ns()
        least, most = clock - time.monotonic_ns(), clock - asked
        times: list[tuple[int, int]] = []
        for number, frame in enumerate(sent, 1):
            since, before = len(testpmd.said), time.monotonic_ns()
            tester.send([frame])
            testpmd.counters_above("RX-packets", number)
            testpmd.wait_for("- timestamp ", since)
            times.append((before + least, time.monotonic_ns() + most))
        testpmd("stop")
        stamps = [int(word) for word in re.findall(rb"- timestamp (\d+)", testpmd.said)]
    assert len(stamps) == len(sent)
    for stamp, (begin, end) in zip(stamps, times, strict=True):
        # Of the device are the low 32 bits.  Vector paths take one below that of their last look at
        # the clock for the next round, also when the frame was stamped just before that look.
        assert (stamp - begin) % (1 << 32) <= end - begin
    assert abs(stamps[0] - time.time_ns()) < 600_000_000_000
    assert stamps == sorted(stamps)
