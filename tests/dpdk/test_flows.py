"""Which queue testpmd's net_iavf gets each flow on, by what its user has asked for."""

import random
import re

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.dpdk.conftest import Bench
from tests.dpdk.tester import Tester
from tests.dpdk.testpmd import Testpmd
from tests.model import flows as model
from tests.vm.harness.backend import wait_until

QUEUES = 4
OPTIONS = [f"--rxq={QUEUES}", f"--txq={QUEUES}"]
MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
LUT = bytes(i % QUEUES for i in range(64))
IPV4, IPV6, TCP_, UDP_ = model.IPV4, model.IPV6, model.TCP, model.UDP
# What net_iavf asks for by itself.
DEFAULT = [
    ((IPV4, 3),),
    ((IPV4, 19), (UDP_, 3)),
    ((IPV4, 19), (TCP_, 3)),
    ((IPV6, 3),),
    ((IPV6, 19), (UDP_, 3)),
    ((IPV6, 19), (TCP_, 3)),
]


def flow(source: random.Random, version: int, protocol: int, number: int) -> bytes:
    ports = {"sport": source.randrange(1, 9), "dport": source.randrange(1, 9)}
    one, other = source.randrange(1, 9), source.randrange(1, 9)
    upper: Packet = TCP(**ports) if protocol == TCP_ else UDP(**ports)
    if version == IPV4:
        middle: Packet = IP(src=f"10.0.0.{one}", dst=f"10.0.1.{other}")
    else:
        middle = IPv6(src=f"fd00::{one}", dst=f"fd00::1:{other}")
    return bytes(Ether(**MACS) / middle / upper / Raw(number.to_bytes(4, "big") + bytes(20)))


def mixture(seed: int, count: int) -> list[bytes]:
    source = random.Random(seed)
    return [
        flow(source, source.choice([IPV4, IPV6]), source.choice([TCP_, UDP_]), number)
        for number in range(count)
    ]


def per_queue(bench: Bench) -> list[int]:
    assert bench.backend is not None
    device = bench.backend.stats("emu_iavf0")
    return [device[f"rx-{queue}.packets"] for queue in range(QUEUES)]


def spread(bench: Bench, tester: Tester, frames: list[bytes]) -> list[int]:
    """On how many frames each queue got; all of them have come back."""
    before = per_queue(bench)
    assert sorted(frame.data for frame in tester.exchange(frames)) == sorted(frames)
    return [after - old for after, old in zip(per_queue(bench), before, strict=True)]


def expected(rss: model.Rss, frames: list[bytes]) -> list[int]:
    queues = [rss.queue(frame) for frame in frames]
    return [queues.count(queue) for queue in range(QUEUES)]


def key_of(testpmd: Testpmd) -> bytes:
    found = re.search(r"RSS key:\s*([0-9A-F]+)", testpmd("show port 0 rss-hash key"))
    assert found
    return bytes.fromhex(found[1])


def default_rss(testpmd: Testpmd) -> model.Rss:
    rss = model.Rss(key_of(testpmd), LUT, 0)
    for headers in DEFAULT:
        rss.add(headers)
    return rss


@pytest.mark.newest
@pytest.mark.parametrize(
    ("rule", "headers", "algorithm"),
    [
        (
            "eth / ipv4 / udp / end actions rss types ipv4-udp l3-src-only",
            ((IPV4, 1), (UDP_, 0)),
            0,
        ),
        (
            "eth / ipv6 / tcp / end actions rss types ipv6-tcp l4-dst-only",
            ((IPV6, 0), (TCP_, 2)),
            0,
        ),
        (
            "eth / ipv4 / tcp / end actions rss func symmetric_toeplitz types ipv4-tcp",
            ((IPV4, 3), (TCP_, 3)),
            2,
        ),
    ],
    ids=["source", "destination port", "symmetric"],
)
def test_rss_rules_hash_what_they_say(
    bench: Bench, rule: str, headers: model.Headers, algorithm: int
) -> None:
    frames = mixture(7, 1000)
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with Tester(bench.folder / "vf1.sock") as tester, bench.testpmd(options=OPTIONS) as testpmd:
        testpmd("port config all rss all")
        testpmd("start")
        rss = default_rss(testpmd)
        assert spread(bench, tester, frames) == expected(rss, frames)
        said = testpmd(f"flow create 0 ingress pattern {rule} end queues end / end")
        assert "Flow rule #0 created" in said, said
        rss.add(headers, algorithm)
        changed = expected(rss, frames)
        assert spread(bench, tester, frames) == changed
        assert "Flow rule #0 destroyed" in testpmd("flow destroy 0 rule 0")
        rss.remove(headers)
        assert spread(bench, tester, frames) == expected(rss, frames)


@pytest.mark.newest
def test_port_config_rss_chooses_what_is_hashed(bench: Bench) -> None:
    frames = mixture(8, 1000)
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with Tester(bench.folder / "vf1.sock") as tester, bench.testpmd(options=OPTIONS) as testpmd:
        testpmd("start")
        testpmd("port config all rss none")
        assert spread(bench, tester, frames) == [len(frames), 0, 0, 0]
        testpmd("port config all rss udp")
        rss = model.Rss(key_of(testpmd), LUT, 0)
        for headers in (DEFAULT[1], DEFAULT[4]):
            rss.add(headers)
        assert spread(bench, tester, frames) == expected(rss, frames)
        testpmd("port config all rss ip")
        rss = model.Rss(key_of(testpmd), LUT, 0)
        for headers in (DEFAULT[0], DEFAULT[3]):
            rss.add(headers)
        assert spread(bench, tester, frames) == expected(rss, frames)


def ip4(last: int) -> bytes:
    return bytes(12) + b"\x0a\x00\x00" + bytes([last]) + bytes(48)


def port(number: int) -> bytes:
    return bytes(2) + number.to_bytes(2, "big") + bytes(60)


IP6 = bytes(24) + bytes.fromhex("fd00000000000000 0000000000010003") + bytes(24)
# IPv6 (whatever its ports), hop limit 64, by the bytes of a frame.
RAW_SPEC = bytes(12) + b"\x86\xdd" + bytes(7) + b"\x40" + bytes(31) + b"\x05"
RAW_MASK = bytes(12) + b"\xff\xff" + bytes(7) + b"\xff" + bytes(31) + b"\xff"
RULES = [
    (
        "eth / ipv4 / udp dst is 7 / end actions queue index 3 / mark id 5 / end",
        model.Rule(((IPV4, 0, bytes(64)), (UDP_, 2, port(7))), queue=3, mark=5),
    ),
    (
        "eth / ipv4 / udp dst is 2 / end actions drop / end",
        model.Rule(((IPV4, 0, bytes(64)), (UDP_, 2, port(2))), drop=True),
    ),
    (
        "eth / ipv4 src is 10.0.0.4 / tcp / end actions rss queues 2 3 end / end",
        model.Rule(((IPV4, 1, ip4(4)), (TCP_, 0, bytes(64))), queue=2, region=1),
    ),
    (
        "eth / ipv6 dst is fd00::1:3 / udp / end actions passthru / mark id 4294967294 / end",
        model.Rule(((IPV6, 2, IP6), (UDP_, 0, bytes(64))), mark=0xFFFFFFFE),
    ),
    (
        f"raw pattern spec {RAW_SPEC.hex()} pattern mask {RAW_MASK.hex()} / end "
        "actions queue index 1 / end",
        model.Rule(raw=(RAW_SPEC, RAW_MASK), queue=1),
    ),
]


def create(testpmd: Testpmd, rule: str, number: int) -> None:
    said = testpmd(f"flow create 0 ingress pattern {rule}")
    assert f"Flow rule #{number} created" in said, said


def wanted(rules: list[model.Rule], rss: model.Rss, frames: list[bytes]) -> list[int]:
    queues = [model.verdict(rules, rss, frame).queue for frame in frames]
    return [queues.count(queue) for queue in range(QUEUES)]


@pytest.mark.newest
def test_flow_director_rules_steer_drop_and_end(bench: Bench) -> None:
    frames = mixture(9, 1000)
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with Tester(bench.folder / "vf1.sock") as tester, bench.testpmd(options=OPTIONS) as testpmd:
        testpmd("port config all rss all")
        testpmd("start")
        rss, rules = default_rss(testpmd), []
        for number, (rule, said) in enumerate(RULES):
            create(testpmd, rule, number)
            rules.append(said)
            arrive = wanted(rules, rss, frames)
            before = per_queue(bench)
            for at in range(0, len(frames), 100):
                part = frames[at : at + 100]
                tester.send(part)
                tester.receive(sum(wanted(rules, rss, part)))
            grown = [new - old for new, old in zip(per_queue(bench), before, strict=True)]
            assert grown == arrive, rule
        assert bench.backend is not None
        assert bench.backend.stats("emu_iavf0")["rx-0.rule_drops"] > 10
        for number in range(len(RULES)):
            assert f"Flow rule #{number} destroyed" in testpmd(f"flow destroy 0 rule {number}")
        assert spread(bench, tester, frames) == expected(rss, frames)


@pytest.mark.newest
def test_marks_reach_the_program(bench: Bench) -> None:
    frames = mixture(10, 100)
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2)
    with Tester(bench.folder / "vf1.sock") as tester, bench.testpmd(options=OPTIONS) as testpmd:
        rules = [said for _, said in RULES]
        for number, (rule, _) in enumerate(RULES):
            create(testpmd, rule, number)
        testpmd("set fwd rxonly")
        testpmd("set verbose 1")
        testpmd("start")
        rss = model.Rss(bytes(52), LUT, 0)
        verdicts = [model.verdict(rules, rss, frame) for frame in frames]
        marks = [v.mark for v in verdicts if v.queue is not None and v.mark is not None]
        assert {5, 0xFFFFFFFE} == set(marks)
        since = len(testpmd.said)
        tester.send(frames)

        def told() -> list[bytes]:
            testpmd("show fwd stats all")
            return re.findall(rb"FDIR matched.*?ID=(0x[0-9a-f]+)", testpmd.said[since:])

        wait_until(lambda: len(told()) >= len(marks), 30, "marks")
        testpmd("stop")
        found = told()
    assert sorted(int(mark, 16) for mark in found) == sorted(marks)


def test_refusals_are_those_of_ice(bench: Bench) -> None:
    bench.serve("--connect", "emu_iavf0")
    with bench.testpmd(options=OPTIONS) as testpmd:
        create(testpmd, RULES[0][0], 0)
        other = "eth / ipv4 / udp src is 7 / end actions drop / end"
        assert "error" in testpmd(f"flow create 0 ingress pattern {other}")
        assert "conflict" in testpmd.said.decode()
        assert "error" in testpmd(f"flow create 0 ingress pattern {RULES[0][0]}")
        assert "already exist" in testpmd.said.decode()
        assert "validated" in testpmd(f"flow validate 0 ingress pattern {RULES[1][0]}")
        for number in range(1, 128):
            rule = f"eth / ipv4 / udp dst is {100 + number} / end actions queue index 1 / end"
            create(testpmd, rule, number)
        rule = "eth / ipv4 / udp dst is 999 / end actions queue index 1 / end"
        assert "error" in testpmd(f"flow create 0 ingress pattern {rule}")
        assert "Flow rule #9 destroyed" in testpmd("flow destroy 0 rule 9")
        create(testpmd, rule, 128)
