"""What ethtool and tc of a guest say of flows, seen in the queues that the flows arrive on."""

import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.model import flows as model
from tests.vm.harness import measure
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import MAC, TAP, Rig

QUEUES = 4
KEY = random.Random(4).randbytes(52)
LUT = bytes(i % QUEUES for i in range(64))
SENDER = """
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
for line in sys.stdin:
    out.send(bytes.fromhex(line))
"""
ALL_CLASSES = 0x7F9F_E000_0000
TCP_, UDP_, IPV4 = model.TCP, model.UDP, model.IPV4


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"flows-{kernel}")
    with Rig(cache, kernel, host, folder, queues=QUEUES) as ready:
        ready.change(f"ethtool -L {ready.ifname} combined {QUEUES}")
        key = ":".join(f"{byte:02x}" for byte in KEY)
        ready.ethtool(f"-X hkey {key} equal {QUEUES} {measure.XFRM_NONE}")
        ready.ethtool("-K ntuple on")
        yield ready
    assert ready.backend_faults() == []


def flow(source: random.Random, protocol: int) -> bytes:
    ports = {"sport": source.randrange(1000, 1016), "dport": source.randrange(2000, 2016)}
    upper: Packet = TCP(**ports, flags="R") if protocol == TCP_ else UDP(**ports)
    where = IP(src=f"10.77.0.{source.randrange(10, 20)}", dst="10.77.0.2")
    return bytes(Ether(src="02:00:00:00:00:01", dst=MAC) / where / upper / Raw(bytes(20)))


def mixture(seed: int, count: int) -> list[bytes]:
    source = random.Random(seed)
    return [flow(source, source.choice([TCP_, UDP_])) for _ in range(count)]


def arrive(rig: Rig, frames: Sequence[bytes]) -> list[int]:
    """How many frames each queue has got, of these and of nothing else that has to be there."""
    names = [f"rx-{i}.packets" for i in range(QUEUES)]
    before = rig.stats()
    text = "".join(frame.hex() + "\n" for frame in frames)
    command = rig.host.command(sys.executable, "-c", SENDER, TAP)
    subprocess.run(command, input=text, text=True, check=True, timeout=30)
    rig.wait_ping()  # behind all of them on the wire
    after = rig.stats()
    return [after[name] - before[name] for name in names]


def assert_like(rig: Rig, frames: list[bytes], rss: model.Rss, rules: list[model.Rule]) -> None:
    """Each queue gets what the model says, and a few frames of the kernels' own beside it.

    iavf passes on what it was told when it has time for that, so the first look may be too early.
    """
    queues = [model.verdict(rules, rss, frame).queue for frame in frames]
    wanted = [queues.count(queue) for queue in range(QUEUES)]
    end = time.monotonic() + 10
    while True:
        got = arrive(rig, frames)
        if all(0 <= now - least < 25 for now, least in zip(got, wanted, strict=True)):
            return
        assert time.monotonic() < end, (got, wanted)


def default_rss() -> model.Rss:
    return model.Rss(KEY, LUT, ALL_CLASSES)


def test_rx_flow_hash_of_udp_by_source_address(rig: Rig) -> None:
    frames = mixture(1, 1000)
    rss = default_rss()
    assert_like(rig, frames, rss, [])
    rig.ethtool("-N rx-flow-hash udp4 s")
    assert "IP SA" in rig.ethtool("-n rx-flow-hash udp4")
    rss.add(((IPV4, 1), (UDP_, 0)))
    assert_like(rig, frames, rss, [])
    rig.ethtool("-N rx-flow-hash udp4 sdfn")
    rss.add(((IPV4, 3), (UDP_, 3)))
    assert_like(rig, frames, rss, [])


def test_rx_flow_hash_of_tcp_by_destination_port(rig: Rig) -> None:
    frames = mixture(2, 1000)
    rig.ethtool("-N rx-flow-hash tcp4 n")
    rss = default_rss()
    rss.add(((IPV4, 0), (TCP_, 2)))
    assert_like(rig, frames, rss, [])
    rig.ethtool("-N rx-flow-hash tcp4 sdfn")
    assert_like(rig, frames, default_rss(), [])


def turned(frame: bytes) -> bytes:
    """The other way of a flow: addresses and ports change places."""
    return frame[:26] + frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36] + frame[38:]


def test_symmetric_hash_has_both_ways_of_a_flow_on_one_queue(rig: Rig) -> None:
    if rig.kernel == "6.1":
        pytest.skip("iavf of 6.1 has no other hash than Toeplitz")
    there = mixture(6, 500)
    frames = there + [turned(frame) for frame in there]
    rss = model.Rss(KEY, LUT, ALL_CLASSES, symmetric=True)
    assert all(rss.queue(one) == rss.queue(turned(one)) for one in there)
    plain = default_rss()
    assert any(plain.queue(one) != plain.queue(turned(one)) for one in there)
    rig.ethtool("-X xfrm symmetric-xor")
    try:
        assert_like(rig, frames, rss, [])
        assert re.search(r"symmetric-xor: on", rig.ethtool("-x"))
    finally:
        rig.ethtool(f"-X {measure.XFRM_NONE}")
    assert_like(rig, frames, plain, [])


def port(number: int) -> bytes:
    return bytes(2) + number.to_bytes(2, "big") + bytes(60)


def test_ntuple_rules_steer_and_drop(rig: Rig) -> None:
    frames = mixture(3, 1000)
    rig.ethtool("-N flow-type udp4 dst-port 2003 action 3")
    rig.ethtool("-N flow-type udp4 dst-port 2004 action -1")
    rig.ethtool("-N flow-type tcp4 src-ip 10.77.0.12 dst-port 2005 action 2")
    address = bytes(12) + socket.inet_aton("10.77.0.12") + bytes(48)
    rules = [
        model.Rule(((IPV4, 0, bytes(64)), (UDP_, 2, port(2003))), queue=3),
        model.Rule(((IPV4, 0, bytes(64)), (UDP_, 2, port(2004))), drop=True),
        model.Rule(((IPV4, 1, address), (TCP_, 2, port(2005))), queue=2),
    ]
    before = rig.stats()
    assert_like(rig, frames, default_rss(), rules)
    dropped = sum(model.verdict(rules, default_rss(), frame).queue is None for frame in frames)
    assert rig.stats()["rx-0.rule_drops"] - before["rx-0.rule_drops"] >= dropped > 10
    listed = rig.ethtool("-n")
    assert "Total 3 rules" in listed
    for line in listed.splitlines():
        if line.startswith("Filter:"):
            rig.ethtool(f"-N delete {line.split()[1]}")
    assert_like(rig, frames, default_rss(), [])


def test_u32_filters_steer_and_drop(rig: Rig) -> None:
    """tc says them as raw patterns: bits at offsets, for the device alone (`skip_sw`)."""
    if rig.kernel == "6.1":
        pytest.skip("iavf of 6.1 does not offload u32")
    frames = mixture(5, 1000)
    rig.ethtool("-K hw-tc-offload on")
    name = rig.ifname
    add = f"tc filter add dev {name} ingress protocol ip prio {{}} u32 skip_sw {{}} action {{}}"
    rig.vm.check(f"tc qdisc add dev {name} ingress")
    try:
        of_port = "match ip protocol {} 0xff match ip dport {} 0xffff"
        rig.vm.check(add.format(1, of_port.format(17, 2007), "drop"))
        # The pattern ends where the last match does: here with the header of TCP.
        of_source = "match ip protocol 6 0xff match ip src 10.77.0.13/32 match u32 0 0 at 36"
        rig.vm.check(add.format(2, of_source, "skbedit queue_mapping 3 skip_sw"))
        address = bytes(12) + socket.inet_aton("10.77.0.13") + bytes(48)
        rules = [
            model.Rule(((IPV4, 0, bytes(64)), (UDP_, 2, port(2007))), drop=True),
            model.Rule(((IPV4, 1, address), (TCP_, 0, bytes(64))), queue=3),
        ]
        before = rig.stats()
        assert_like(rig, frames, default_rss(), rules)
        dropped = sum(model.verdict(rules, default_rss(), frame).queue is None for frame in frames)
        assert rig.stats()["rx-0.rule_drops"] - before["rx-0.rule_drops"] >= dropped > 10
        assert rig.vm.check(f"tc filter show dev {name} ingress").count("in_hw") == 2
        rig.vm.check(f"tc filter del dev {name} ingress prio 1")
        assert_like(rig, frames, default_rss(), rules[1:])
    finally:
        rig.vm.check(f"tc qdisc del dev {name} ingress")
    assert_like(rig, frames, default_rss(), [])


def test_rules_come_back_with_the_interface_and_hashes_do_not(rig: Rig) -> None:
    """iavf takes both back when its interface goes down, and forgets what it was to hash."""
    frames = mixture(4, 300)
    rules = [model.Rule(((IPV4, 0, bytes(64)), (UDP_, 2, port(2006))), queue=1)]
    rss = default_rss()
    rss.add(((IPV4, 3), (TCP_, 3)))
    rss.add(((IPV4, 1), (UDP_, 0)))
    rig.ethtool("-N flow-type udp4 dst-port 2006 action 1 loc 7")
    rig.ethtool("-N rx-flow-hash udp4 s")
    # iavf says it later; a choice that it has not said when it goes down it drops without a word,
    # and what it had said of UDP before stays with the device.
    assert_like(rig, frames, rss, rules)
    name = rig.ifname
    rig.vm.check(f"ip link set {name} down; ip link set {name} up")
    rig.wait_carrier()
    rig.wait_ping(10)
    rss.remove(((IPV4, 3), (TCP_, 3)))
    rss.remove(((IPV4, 1), (UDP_, 0)))
    assert_like(rig, frames, rss, rules)
    rig.ethtool("-N delete 7")
    rig.ethtool("-N rx-flow-hash udp4 sdfn")
