"""Unmodified dpdk-testpmd with its own net_iavf on our device, without a VM.

The other VF is driven by our own driver, which compares what comes back byte by byte.
"""

import random
import re
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from bench.dpdk import RELEASES
from tests.dpdk.conftest import NEWEST, Bench
from tests.dpdk.tester import Tester, mixed_frames
from tests.vm.harness.backend import wait_until

HEADERS = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(
    src="10.0.0.1", dst="10.0.0.2", id=7
)
JUMBO = ["--max-pkt-len=9018", "--enable-scatter", "--mbuf-size=2176"]
# Of RTE_ETH_TX_OFFLOAD: segments, IPv4, UDP and TCP checksums, TSO.
MULTI_SEGS, CHECKSUMS_AND_TSO = 0x8000, 0x802E


def connect(bench: Bench, options: str = "") -> Tester:
    """testpmd's VF and the tester's, 1:1."""
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2, options=options)
    return Tester(bench.folder / "vf1.sock")


def assert_unchanged(tester: Tester, frames: list[bytes]) -> None:
    assert [frame.data for frame in tester.exchange(frames)] == frames


@pytest.mark.newest
def test_probe_link_and_quit(bench: Bench) -> None:
    backend = bench.serve("--connect", "emu_iavf0", options=",mac=02:aa:00:00:00:01")
    with bench.testpmd() as testpmd:
        info = testpmd("show port info 0")
        assert "Driver name: net_iavf" in info
        assert "02:AA:00:00:00:01" in info
        assert "Link status: up" in info
        assert "Link speed: 100 Gbps" in info
        assert testpmd.quit() == 0

    def free() -> bool:
        said = backend.said()
        return said.count("client left") == said.count("client connected")

    wait_until(free, 10, "the device is free")


def test_loop_counts_agree(bench: Bench) -> None:
    backend = bench.serve("--connect", "emu_iavf0")
    with bench.testpmd() as testpmd:
        testpmd("start tx_first 2")
        testpmd.counters_above("RX-packets", 5000)
        counters = testpmd.final_counters()
        device = backend.stats("emu_iavf0")
    # What was under way when forwarding stopped is in the Rx ring, or has not been sent.
    assert counters["TX-packets"] == device["tx-0.packets"] == device["rx-0.packets"]
    assert counters["RX-errors"] == counters["RX-missed"] == counters["TX-errors"] == 0
    assert device["tx-0.malicious"] == 0


def test_txonly_and_rxonly_between_two_programs(bench: Bench) -> None:
    backend = bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with bench.testpmd(0) as sender, bench.testpmd(1) as receiver:
        receiver("set fwd rxonly")
        receiver("start")
        sender("set fwd txonly")
        sender("start")
        sender.counters_above("TX-packets", 20000)
        sent = sender.final_counters()
        device = backend.stats("emu_iavf1")
        dropped = device["rx-0.discards"]
        received = receiver.counters_above("RX-packets", sent["TX-packets"] - dropped)
    assert received["RX-packets"] + dropped == sent["TX-packets"]
    # A VF's bytes have the FCS and are counted before anything is discarded; net_iavf takes off
    # four for each frame that it got.
    assert received["RX-bytes"] == 68 * sent["TX-packets"] - 4 * received["RX-packets"]


def test_txonly_into_a_port(bench: Bench) -> None:
    backend = bench.serve("--port", "null0,type=null", "--connect", "emu_iavf0,null0")
    with bench.testpmd() as testpmd:
        testpmd("set fwd txonly")
        testpmd("start")
        testpmd.counters_above("TX-packets", 20000)
        counters = testpmd.final_counters()
    assert backend.stats("null0")["from_guest-0.packets"] == counters["TX-packets"]


def test_rxonly_takes_what_is_generated(bench: Bench) -> None:
    backend = bench.serve(*("--port", "gen0,type=gen,rate=20000", "--connect", "emu_iavf0,gen0"))
    with bench.testpmd() as testpmd:
        testpmd("set fwd rxonly")
        testpmd("start")
        counters = testpmd.counters_above("RX-packets", 10000)
        device = backend.stats("emu_iavf0")
    assert counters["RX-errors"] == counters["RX-nombuf"] == 0
    assert counters["RX-packets"] <= device["rx-0.packets"]


def test_macswap_swaps_and_changes_nothing_else(bench: Bench) -> None:
    with connect(bench) as tester, bench.testpmd() as testpmd:
        testpmd("set fwd macswap")
        testpmd("start")
        frames = mixed_frames(1000)
        back = tester.exchange(frames)
    assert [frame.data for frame in back] == [
        frame[6:12] + frame[:6] + frame[12:] for frame in frames
    ]


@pytest.mark.newest
@pytest.mark.parametrize("bits", [64, 128, 256, 512], ids=["scalar", "sse", "avx2", "avx512"])
def test_every_vector_path_forwards_unchanged(bench: Bench, bits: int) -> None:
    flag = {256: "avx2", 512: "avx512bw"}.get(bits)
    if flag and flag not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"the CPU has no {flag}")
    eal = [f"--force-max-simd-bitwidth={bits}"]
    # The SSE path of 25.11 asks whether 32 buffers (rx_free_thresh) are due and then posts 64, some
    # of them for frames that have not been read yet.
    options = ["--rxfreet=64"] if bench.dpdk.release == RELEASES[NEWEST] and bits == 128 else []
    with connect(bench) as tester, bench.testpmd(eal=eal, options=options) as testpmd:
        testpmd("start")
        assert_unchanged(tester, mixed_frames(4000))
        assert testpmd.counters()["RX-errors"] == 0


def test_rings_of_odd_lengths_wrap(bench: Bench) -> None:
    options = ["--rxd=96", "--txd=160"]
    with connect(bench) as tester, bench.testpmd(options=options) as testpmd:
        testpmd("start")
        for _ in range(10):
            # As many as the Rx ring has room for.
            for frame in (frames := mixed_frames(64)):
                tester.send([frame])
            assert [frame.data for frame in tester.receive(len(frames))] == frames


@pytest.mark.newest
def test_jumbo_frames_are_scattered_and_gathered(bench: Bench) -> None:
    options = [*JUMBO, f"--tx-offloads={MULTI_SEGS:#x}"]
    with connect(bench) as tester, bench.testpmd(options=options) as testpmd:
        testpmd("start")
        for _ in range(5):
            # Five buffers each.
            assert_unchanged(tester, mixed_frames(60, largest=9014))


@pytest.mark.newest
def test_csum_engine_fills_in_and_verifies_checksums(bench: Bench) -> None:
    frames = []
    for size in (1, 20, 700, 1400):
        for layer in (UDP(sport=1, dport=2), TCP(sport=3, dport=4)):
            payload = (bytes(range(256)) * 6)[:size]
            frames.append(bytes(HEADERS / layer / Raw(payload)))
    bad = bytearray(frames[0])
    bad[40] ^= 1
    # Without a checksum, as in tunnels: nothing to verify, over IPv6 as well.
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    bare = [
        bytes(ether / ip / UDP(sport=1, dport=2, chksum=0) / Raw(bytes(100)))
        for ip in (IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2"))
    ]
    options = ["--enable-rx-cksum"]
    with connect(bench) as tester, bench.testpmd(options=options) as testpmd:
        testpmd("port stop 0")
        for layer in ("ip", "udp", "tcp"):
            testpmd(f"csum set {layer} hw 0")
        testpmd("port start 0")
        testpmd("set fwd csum")
        testpmd("start")
        back = tester.exchange(frames)
        tester.exchange([bytes(bad), *bare])
        summary = testpmd("stop")
    for sent, found in zip(frames, back, strict=True):
        assert found.data[14:] == sent[14:]
        assert found.checksums_good
    counted = re.findall(r"Bad-(\w+)csum: (\d+)", summary)
    assert counted, summary
    assert ("l4", "1") in counted
    assert ("ip", "0") in counted


@pytest.mark.newest
def test_tso_cuts_segments(bench: Bench) -> None:
    options = [*JUMBO, f"--tx-offloads={CHECKSUMS_AND_TSO:#x}"]
    payload = bytes(range(251)) * 35
    layer = TCP(sport=3, dport=4, seq=1000, flags="PA")
    with connect(bench) as tester, bench.testpmd(options=options) as testpmd:
        testpmd("port stop 0")
        for command in ("csum set ip hw 0", "csum set tcp hw 0", "tso set 1000 0"):
            testpmd(command)
        testpmd("port start 0")
        testpmd("set fwd csum")
        testpmd("start")
        tester.send([bytes(HEADERS / layer / Raw(payload))])
        segments = tester.receive(-(-len(payload) // 1000))
    assert all(frame.checksums_good for frame in segments)
    packets = [Ether(frame.data) for frame in segments]
    assert b"".join(bytes(packet[TCP].payload) for packet in packets) == payload
    assert [packet[TCP].seq for packet in packets] == [1000 + 1000 * i for i in range(len(packets))]
    assert [packet[TCP].flags.P for packet in packets] == [False] * (len(packets) - 1) + [True]


@pytest.mark.newest
def test_four_queues_with_rss(bench: Bench) -> None:
    options = ["--rxq=4", "--txq=4", "--rss-udp"]
    # Of many bits each: a key of chance has no two queues' share of few on one of them.
    chance = random.Random(4)
    flows = [
        bytes(
            HEADERS
            / UDP(sport=chance.randrange(1, 1 << 16), dport=chance.randrange(1, 1 << 16))
            / Raw(number.to_bytes(4, "big") * 20)
        )
        for number in range(400)
    ]
    with connect(bench) as tester, bench.testpmd(options=options) as testpmd:
        testpmd("start")
        back = [frame.data for frame in tester.exchange(flows)]
        assert bench.backend is not None
        device = bench.backend.stats("emu_iavf0")
    assert sorted(back) == sorted(flows)
    received = [device[f"rx-{queue}.packets"] for queue in range(4)]
    assert min(received) > 40
    # Each queue's frames are sent from the Tx queue of the same number.
    assert [device[f"tx-{queue}.packets"] for queue in range(4)] == received
    assert sum(received) == len(flows)


@pytest.mark.newest
def test_vlan_strip_and_insert(bench: Bench) -> None:
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(100))
    tagged = bytes(Ether(src="02:00:00:00:00:01") / Dot1Q(vlan=5, prio=3) / inner)
    with connect(bench) as tester, bench.testpmd() as testpmd:
        testpmd("set fwd mac")
        testpmd("start")
        assert Ether(tester.exchange([tagged])[0].data)[Dot1Q].vlan == 5
        testpmd("vlan set strip on 0")
        (stripped,) = tester.exchange([tagged])
        assert stripped.data[12:] == tagged[16:]
        testpmd("stop")
        testpmd("port stop 0")
        testpmd("tx_vlan set 0 100")
        testpmd("port start 0")
        testpmd("start")
        (changed,) = tester.exchange([tagged])
    assert Ether(changed.data)[Dot1Q].vlan == 100
    assert changed.data[18:] == tagged[18:]


@pytest.mark.newest
@pytest.mark.parametrize("caps", ["-vlan_v2", "-vlan"], ids=["v1", "v2"])
def test_vlan_filters_of_both_versions(bench: Bench, caps: str) -> None:
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(100))
    ether = Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
    frames = [bytes(ether / Dot1Q(vlan=vlan) / inner) for vlan in (5, 6, 7)]
    plain = bytes(ether / inner)
    with connect(bench, f",caps={caps}") as tester, bench.testpmd() as testpmd:
        testpmd("set promisc 0 off")
        testpmd("vlan set filter on 0")
        testpmd("rx_vlan add 5 0")
        testpmd("rx_vlan add 7 0")
        testpmd("start")
        (*_, last) = tester.exchange([frames[0], frames[2], plain])
        assert last.data == plain
        # The frame of VLAN 6 would come first.
        tester.send([frames[1], plain])
        assert tester.receive(1)[0].data == plain


@pytest.mark.newest
def test_qinq_passes_and_its_outer_tag_is_stripped(bench: Bench) -> None:
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(100))
    ether = Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
    stacked = bytes(ether / Dot1Q(vlan=5) / Dot1Q(vlan=6) / inner)
    service = bytes(ether / Dot1AD(vlan=5) / Dot1Q(vlan=6) / inner)
    with connect(bench) as tester, bench.testpmd() as testpmd:
        testpmd("start")
        assert_unchanged(tester, [stacked, service])
        testpmd("vlan set strip on 0")
        one, other = tester.exchange([stacked, service])
    assert one.data == stacked[:12] + stacked[16:]
    assert other.data == service


@pytest.mark.newest
def test_keep_crc(bench: Bench) -> None:
    frames = mixed_frames(100)
    tagged = bytes(HEADERS / UDP(sport=1, dport=2) / Raw(bytes(100)))
    tagged = tagged[:12] + bytes.fromhex("81000005") + tagged[12:]
    with (
        connect(bench) as tester,
        bench.testpmd(options=["--disable-crc-strip"]) as testpmd,
    ):
        assert "KEEP_CRC" in testpmd("show port 0 rx_offload configuration")
        testpmd("start")
        # net_iavf takes four bytes off each frame: without the CRC they would be missing.
        assert_unchanged(tester, frames)
        testpmd("vlan set strip on 0")
        assert_unchanged(tester, [tagged])


@pytest.mark.newest
def test_port_stop_start_and_reset(bench: Bench) -> None:
    with connect(bench) as tester, bench.testpmd() as testpmd:
        frames = mixed_frames(200)
        for commands in (["port start 0"], ["port reset 0", "port start 0"], ["port start 0"]):
            testpmd("start")
            assert_unchanged(tester, frames)
            testpmd("stop")
            testpmd("port stop 0")
            for command in commands:
                testpmd(command)
            testpmd.until("show port info 0", "Link status: up")
        testpmd("start")
        assert_unchanged(tester, frames)


def test_mtu_change(bench: Bench) -> None:
    with connect(bench) as tester, bench.testpmd() as testpmd:
        testpmd("port stop 0")
        testpmd("port config mtu 0 1000")
        testpmd("port start 0")
        assert "MTU: 1000" in testpmd("show port info 0")
        testpmd("start")
        assert_unchanged(tester, mixed_frames(100, largest=1014))


def test_killed_program_is_followed_by_another(bench: Bench) -> None:
    with connect(bench) as tester:
        for _ in range(2):
            with bench.testpmd() as testpmd:
                testpmd("start")
                assert_unchanged(tester, mixed_frames(300))
                testpmd.kill()
        with bench.testpmd() as testpmd:
            testpmd("start")
            assert_unchanged(tester, mixed_frames(300))
            assert testpmd.quit() == 0


def test_killed_backend_leaves_a_program_that_can_quit(bench: Bench) -> None:
    backend = bench.serve("--connect", "emu_iavf0")
    with bench.testpmd() as testpmd:
        testpmd("start")
        assert backend.process is not None
        backend.process.kill()
        backend.process.wait()
        testpmd("stop")
        testpmd.quit()


def test_two_devices_in_one_program(bench: Bench) -> None:
    backend = bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with bench.testpmd(0, more=[1]) as testpmd:
        testpmd("start tx_first 1")
        testpmd.counters_above("RX-packets", 3000, 0)
        testpmd.counters_above("RX-packets", 3000, 1)
        sent = testpmd.final_counters(0)["TX-packets"]
        assert backend.stats("emu_iavf1")["rx-0.packets"] == sent


@pytest.mark.parametrize(
    "files", [[], ["--single-file-segments"]], ids=["file-per-page", "one-file"]
)
def test_hugepages(bench: Bench, hugepages: None, files: list[str]) -> None:
    memory = ["--in-memory", "-m", "128", *files]
    with connect(bench) as tester, bench.testpmd(memory=memory) as testpmd:
        testpmd("start")
        assert_unchanged(tester, mixed_frames(2000))
        assert testpmd.quit() == 0
