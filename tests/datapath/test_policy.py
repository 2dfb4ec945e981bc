"""What the host decided about a VF, as frames show it: through rings, and a burst at a time."""

import itertools
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from emuiavf.datapath import _switch
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxFilter, VlanOffload
from emuiavf.errors import ConfigError, StateError
from emuiavf.policy import TPID_8021AD, VfPolicy
from emuiavf.ports._null import Null
from tests import wire
from tests.fakes.tap import NEEDS_CSUM, TCPV4, header, socket_tap
from tests.rings import Driver
from tests.wire import mac

ERRORS, PACKETS, SPOOFED, HELD, FILTERED = 5, 6, 9, 10, 12
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
EVERYTHING = (1 << 64) - 1


def frame(
    dst: bytes, src: bytes, vlan: int | None = None, tpid: int = 0x8100, size: int = 60
) -> bytes:
    tag = b"" if vlan is None else tpid.to_bytes(2, "big") + vlan.to_bytes(2, "big")
    return dst + src + tag + b"\x88\xb5" + bytes(i * 7 & 0xFF for i in range(size - 14))


def wants(*macs: bytes, **kwargs: object) -> RxFilter:
    return RxFilter(frozenset(macs), **kwargs)  # type: ignore[arg-type]


def joined(count: int, hold_s: float = 10.0, **kwargs: int) -> tuple[Engine, list[Driver]]:
    return wire.joined(count, hold_s, buffers=100, ring_len=128, **kwargs)


def received(driver: Driver) -> list[bytes]:
    return [got.data for got in driver.receive()]


@pytest.fixture(params=[2, 3], ids=["1:1", "switch"])
def members(request: pytest.FixtureRequest) -> tuple[Engine, list[Driver]]:
    return joined(request.param)


def test_foreign_source_addresses_are_dropped_and_counted(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    engine.set_policy(a.vf, VfPolicy(spoofchk=True))
    sent = [frame(mac(1), src) for src in (mac(0), mac(9), mac(0), bytes(6), GROUP, BROADCAST)]
    for data in sent:
        a.send(data)
    engine.step()
    assert received(b) == [sent[0], sent[2]]
    assert a.rows[1][[PACKETS, SPOOFED, ERRORS, FILTERED]].tolist() == [2, 4, 4, 0]


def test_every_address_that_a_guest_receives_is_one_it_may_send_from(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    engine.set_policy(a.vf, VfPolicy(spoofchk=True))
    a.vf.set_filter(wants(*[mac(i) for i in range(50, 90)], GROUP))
    engine.refilter(a.vf)
    sent = [frame(mac(1), mac(i)) for i in range(45, 95)]
    for data in sent:
        a.send(data)
    engine.step(2)
    assert received(b) == sent[5:45]
    assert a.rows[1][SPOOFED] == 10


def test_guest_without_an_address_sends_nothing_when_it_is_checked() -> None:
    engine, (a, b) = joined(2)
    engine.set_policy(a.vf, VfPolicy(spoofchk=True))
    a.vf.set_filter(wants())
    engine.refilter(a.vf)
    a.send(frame(mac(1), mac(0)))
    engine.step()
    assert received(b) == []
    engine.set_policy(a.vf, VfPolicy())
    a.send(frame(mac(1), mac(0)))
    engine.step()
    assert len(received(b)) == 1


@pytest.mark.parametrize(
    ("vlans", "passing"), [(None, [None, 5, 6]), (frozenset({0, 5}), [None, 5])]
)
def test_vlans_that_a_guest_has_not_asked_for_are_spoofed_once_it_has_asked_for_any(
    members: tuple[Engine, list[Driver]], vlans: frozenset[int] | None, passing: list[int | None]
) -> None:
    engine, (a, b, *_) = members
    a.vf.set_filter(wants(mac(0), vlans=vlans))
    engine.set_policy(a.vf, VfPolicy(spoofchk=True))
    for vlan in (None, 5, 6):
        a.send(frame(mac(1), mac(0), vlan))
    engine.step()
    assert received(b) == [frame(mac(1), mac(0), vlan) for vlan in passing]
    assert a.rows[1][SPOOFED] == 3 - len(passing)


def test_spoofed_frame_behind_a_held_one_is_counted_once() -> None:
    engine, (a, b) = joined(2)
    engine.set_policy(a.vf, VfPolicy(spoofchk=True))
    for i in range(101):
        a.send(frame(mac(1), mac(0), size=60 + i))
    a.send(frame(mac(1), mac(9)))
    engine.step(8)
    assert a.rows[1][SPOOFED] == 0
    assert a.rows[1][HELD] > 0
    assert len(received(b)) == 100
    b.post(4)
    engine.step(2)
    assert received(b) == [frame(mac(1), mac(0), size=160)]
    assert a.rows[1][[PACKETS, SPOOFED]].tolist() == [101, 1]


def test_port_vlan_is_a_tag_that_only_the_other_side_sees(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    engine.set_policy(a.vf, VfPolicy(port_vlan=100, port_qos=3))
    sent = [frame(mac(1), mac(0), size=size) for size in (14, 60, 127, 128, 129, 1500)]
    for data in sent:
        a.send(data)
    engine.step()
    tag = bytes.fromhex("81006064")
    assert received(b) == [data[:12] + tag + data[12:] for data in sent]
    # The guest's own counters know of no tag.
    assert a.rows[1][0] == sum(map(len, sent))
    answers = [frame(mac(0), mac(1), 3 << 13 | 100, size=size) for size in (60, 900)]
    for data in [*answers, frame(mac(0), mac(1)), frame(mac(0), mac(1), 101)]:
        b.send(data)
    b.send(frame(mac(0), mac(1), 100, 0x88A8))
    engine.step()
    assert received(a) == [data[:12] + data[16:] for data in answers]
    assert b.rows[1][FILTERED] == 3


def test_two_guests_of_one_port_vlan_talk_and_none_of_another_hears() -> None:
    engine, drivers = joined(4)
    tap = Null("port", {})
    engine.disconnect(*[driver.vf for driver in drivers])
    engine.add(tap)
    engine.connect(*[driver.vf for driver in drivers], tap)
    for driver, vlan in zip(drivers, (7, 7, 8, 0), strict=True):
        engine.set_policy(driver.vf, VfPolicy(port_vlan=vlan))
    sent = [frame(dst, mac(0), size=80) for dst in (BROADCAST, mac(1), mac(2), mac(3))]
    for data in sent:
        drivers[0].send(data)
    engine.step()
    tagged = [data[:12] + b"\x81\0\0\7" + data[12:] for data in sent]
    # A guest without a port VLAN, which prunes nothing, is a trunk as the port is.
    assert [received(driver) for driver in drivers] == [[], sent[:2], [], [tagged[0], tagged[3]]]
    assert tap.rows[0][[PACKETS, 0]].tolist() == [1, 84 + 4]
    assert drivers[0].rows[1][FILTERED] == 1


def test_tagged_frames_of_a_guest_behind_a_port_vlan_are_dropped(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    engine.set_policy(a.vf, VfPolicy(port_vlan=100))
    for vlan, tpid in itertools.product((0, 100, 200), (0x8100, 0x88A8, 0x9100)):
        a.send(frame(mac(1), mac(0), vlan, tpid))
    a.send(frame(mac(1), mac(0)), tag=100)
    engine.step()
    assert received(b) == []
    assert a.rows[1][[SPOOFED, PACKETS]].tolist() == [10, 0]


def test_service_vlan_takes_the_tags_of_its_guest_along(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    policy = VfPolicy(port_vlan=30, port_tpid=TPID_8021AD)
    engine.set_policy(a.vf, policy)
    a.send(frame(mac(1), mac(0), 5))
    a.send(frame(mac(1), mac(0), 5, 0x88A8))
    a.send(frame(mac(1), mac(0)))
    engine.step()
    outer = bytes.fromhex("88a8001e")
    plain, tagged = frame(mac(1), mac(0)), frame(mac(1), mac(0), 5)
    assert received(b) == [tagged[:12] + outer + tagged[12:], plain[:12] + outer + plain[12:]]
    engine.set_policy(b.vf, policy)
    b.send(frame(mac(0), mac(1), 5))
    a.send(tagged)
    engine.step()
    assert received(a) == [frame(mac(0), mac(1), 5)]
    assert received(b) == [tagged]
    engine.set_policy(b.vf, replace(policy, port_tpid=0x8100))
    a.send(plain)
    engine.step()
    assert received(b) == []


def test_promiscuous_guest_behind_a_port_vlan_stays_in_it(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    b.vf.set_filter(wants(mac(1), promisc_unicast=True, promisc_multicast=True))
    engine.set_policy(b.vf, VfPolicy(port_vlan=9))
    for vlan in (None, 8, 9):
        a.send(frame(mac(0x77), mac(0), vlan))
        a.send(frame(GROUP, mac(0), vlan))
    engine.step()
    assert received(b) == [frame(mac(0x77), mac(0)), frame(GROUP, mac(0))]


def test_port_vlan_ends_as_it_began(members: tuple[Engine, list[Driver]]) -> None:
    engine, (a, b, *_) = members
    for vlan in (5, 0, 6, 0):
        engine.set_policy(a.vf, VfPolicy(port_vlan=vlan))
        a.send(frame(mac(1), mac(0)))
        engine.step()
        assert received(b) == [frame(mac(1), mac(0), vlan or None)]


def large(payload: int) -> bytes:
    packet = (
        Ether(src=mac(0).hex(":"), dst="ff:ff:ff:ff:ff:ff")
        / IP(src="10.0.0.1", dst="10.0.0.2", id=1)
        / TCP(sport=1, dport=2, seq=5, flags="A")
        / Raw(bytes(i & 0xFF for i in range(payload)))
    )
    return bytes(packet)


def test_offloads_work_across_a_port_vlan_for_members_with_and_without_it() -> None:
    """Checksums and segments are right for whoever gets the tag and whoever does not."""
    engine, drivers = joined(4)
    for driver in drivers[1:]:
        driver.vf.set_rss(RssConfig(key=bytes(range(1, 53)), hena=EVERYTHING))
    for i in (0, 1, 3):
        engine.set_policy(drivers[i].vf, VfPolicy(port_vlan=77))
    # Member 3 strips tags of its own, member 2 gets the port VLAN's in its descriptor.
    for i in (2, 3):
        drivers[i].vf.set_vlan(VlanOffload(strip=True))
    udp = bytes(
        Ether(src=mac(0).hex(":"), dst="ff:ff:ff:ff:ff:ff")
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / UDP(sport=5, dport=6)
        / Raw(bytes(300))
    )
    blank = udp[:24] + b"\0\0" + udp[26:40] + b"\0\0" + udp[42:]
    # IIPT 3 and L4T UDP, then IIPT 3 and L4T TCP of a frame to be cut.
    drivers[0].send(blank, cmd=0x60 | 0x300, lengths=(14, 20, 8))
    context = (0, 1 | 0x10 | 1000 << 50)
    drivers[0].send(large(3000), cmd=0x60 | 0x100, lengths=(14, 20, 20), context=context)
    engine.step()
    got = [driver.receive() for driver in drivers]
    assert [len(frames) for frames in got] == [0, 4, 4, 4]
    for frames, tci in ((got[1], None), (got[2], 77), (got[3], None)):
        assert frames[0].data == udp
        assert [one.l2tag1 for one in frames] == [tci] * 4
        assert all(one.hashed and not one.errors for one in frames)
        assert len({one.hash for one in frames[1:]}) == 1
        assert b"".join(one.data[54:] for one in frames[1:]) == large(3000)[54:]
        for one in frames[1:]:
            packet = Ether(one.data)
            sums = packet[IP].chksum, packet[TCP].chksum
            del packet[IP].chksum, packet[TCP].chksum
            again = Ether(bytes(packet))
            assert sums == (again[IP].chksum, again[TCP].chksum)


def test_the_longest_header_that_is_cut_has_room_for_a_port_vlan() -> None:
    """126 bytes of header, as much as is taken of a frame to be cut; and the tag."""
    engine, (a, b, c) = joined(3)
    engine.set_policy(a.vf, VfPolicy(port_vlan=5))
    engine.set_policy(c.vf, VfPolicy(port_vlan=5))
    ip = bytes.fromhex("4f0000000001000040060000 0a000001 0a000002") + bytes([1] * 40)
    tcp = bytes.fromhex("0001000200000005000000000000ffff00000000")
    tcp = tcp[:12] + b"\xd0\x10" + tcp[14:] + bytes([1] * 32)
    payload = bytes(i & 0xFF for i in range(2500))
    data = BROADCAST + mac(0) + b"\x08\0" + ip + tcp + payload
    assert len(data) - len(payload) == 126
    context = (0, 1 | 0x10 | 1000 << 50)
    a.send(data, cmd=0x60 | 0x100, lengths=(14, 60, 52), context=context)
    engine.step()
    tagged, plain = received(b), received(c)
    assert [one[:12] + one[16:] for one in tagged] == plain
    assert {one[12:16] for one in tagged} == {b"\x81\0\0\5"}
    assert b"".join(one[126:] for one in plain) == payload
    for number, one in enumerate(plain):
        packet = Ether(one)
        assert (packet[TCP].seq, packet[IP].len) == (5 + 1000 * number, len(one) - 14)
        packet[TCP].chksum = None
        assert Ether(bytes(packet))[TCP].chksum == Ether(one)[TCP].chksum


def test_held_frames_of_a_port_vlan_are_tagged_once() -> None:
    engine, (a, b) = joined(2)
    engine.set_policy(a.vf, VfPolicy(port_vlan=100))
    sent = [frame(mac(1), mac(0), size=60 + i) for i in range(110)]
    for data in sent:
        a.send(data)
    engine.step(10)
    b_got = received(b)
    b.post(50)
    engine.step(4)
    b_got += received(b)
    assert b_got == [data[:12] + b"\x81\0\0\x64" + data[12:] for data in sent]


def test_frames_of_a_tap_are_whole_however_often_they_are_held() -> None:
    """What is read once and offered again and again loses its tag for each offer only."""
    driver = Driver("guest", ring_len=64)
    driver.vf.set_filter(wants(mac(0)))
    driver.enable()
    tap, kernel = socket_tap("tap")
    engine = Engine(hold_s=10.0)
    for endpoint in (driver.vf, tap):
        engine.add(endpoint)
    engine.connect(driver.vf, tap)
    engine.set_policy(driver.vf, VfPolicy(port_vlan=12))
    plain = [frame(mac(0), mac(9), size=60 + 90 * i) for i in range(8)]
    for data in plain:
        kernel.send(header() + data[:12] + b"\x81\0\x20\x0c" + data[12:])
    large_frame = mac(0) + mac(9) + b"\x81\0\0\x0c" + large(3000)[12:]
    start, field = 18 + 20, 18 + 20 + 16
    kernel.send(header(NEEDS_CSUM, TCPV4, 58, 1000, start, field - start) + large_frame)
    got = []
    while len(got) < 11:
        engine.step(3)
        driver.post(1)
        engine.step(3)
        # TapIn reads again no sooner than some microseconds after it found nothing.
        new = received(driver)
        assert len(new) <= 1
        got += new
    assert got[:8] == plain
    assert b"".join(one[54:] for one in got[8:]) == large(3000)[54:]
    for one in got[8:]:
        packet = Ether(one)
        packet[TCP].chksum = None
        assert Ether(bytes(packet))[TCP].chksum == Ether(one)[TCP].chksum
    driver.send(plain[0])
    driver.send(large(3000), cmd=0x60 | 0x100, lengths=(14, 20, 20), context=(0, 0x11 | 1000 << 50))
    engine.step()
    assert kernel.recv(4096)[10:] == plain[0][:12] + b"\x81\0\0\x0c" + plain[0][12:]
    sent = kernel.recv(4096)
    assert sent[:10] == header(NEEDS_CSUM, TCPV4, 58, 1000, start, field - start)
    assert sent[10 + 12 : 10 + 16] == b"\x81\0\0\x0c"
    assert sent[10 + 58 :] == large(3000)[54:]
    engine.remove(tap)
    tap.close()
    kernel.close()


def test_guest_without_trust_is_not_promiscuous(members: tuple[Engine, list[Driver]]) -> None:
    engine, (a, b, *_) = members
    b.vf.set_filter(wants(mac(1), promisc_unicast=True, promisc_multicast=True))
    engine.set_policy(b.vf, VfPolicy(trust=False))
    for dst in (mac(0x77), GROUP, mac(1)):
        a.send(frame(dst, mac(0)))
    engine.step()
    assert received(b) == [frame(mac(1), mac(0))]
    engine.set_policy(b.vf, VfPolicy(trust=True))
    for dst in (mac(0x77), GROUP):
        a.send(frame(dst, mac(0)))
    engine.step()
    assert received(b) == [frame(mac(0x77), mac(0)), frame(GROUP, mac(0))]


def test_address_that_the_host_set_is_the_only_unicast_one(
    members: tuple[Engine, list[Driver]],
) -> None:
    engine, (a, b, *_) = members
    b.vf.set_filter(wants(mac(1), mac(5), GROUP))
    engine.set_policy(b.vf, VfPolicy(mac=mac(1), mac_locked=True, spoofchk=True))
    for dst in (mac(1), mac(5), GROUP):
        a.send(frame(dst, mac(0)))
    b.send(frame(mac(0), mac(5)))
    engine.step()
    assert received(b) == [frame(mac(1), mac(0)), frame(GROUP, mac(0))]
    assert received(a) == []
    assert b.rows[1][SPOOFED] == 1


def test_policy_outlives_a_change_of_the_filter(members: tuple[Engine, list[Driver]]) -> None:
    engine, (a, b, *_) = members
    engine.set_policy(b.vf, VfPolicy(port_vlan=4, spoofchk=True))
    b.vf.set_filter(wants(mac(8)))
    engine.refilter(b.vf)
    a.send(frame(mac(8), mac(0), 4))
    a.send(frame(mac(8), mac(0), 5))
    b.send(frame(mac(0), mac(1)))
    b.send(frame(mac(0), mac(8)))
    engine.step()
    assert received(b) == [frame(mac(8), mac(0))]
    assert received(a) == [frame(mac(0), mac(8), 4)]


def test_ports_have_no_policy_and_no_vlan_is_out_of_range() -> None:
    engine, (a, _) = joined(2)
    port = Null("port", {})
    with pytest.raises(StateError, match="not part of the engine"):
        engine.set_policy(port, VfPolicy())
    engine.add(port)
    with pytest.raises(ConfigError, match="port: a port has no policy"):
        engine.set_policy(port, VfPolicy())
    for vlan in (-1, 4095):
        with pytest.raises(ConfigError, match=f"VLAN {vlan}: 0 to 4094"):
            engine.set_policy(a.vf, VfPolicy(port_vlan=vlan))


def test_one_member_and_a_switch_agree_under_every_policy() -> None:
    filters = [
        wants(*macs, promisc_unicast=unicast, promisc_multicast=multicast, vlans=vlans)
        for macs, unicast, multicast, vlans in itertools.product(
            ((), (mac(1),), (mac(1), mac(2), GROUP)),
            (False, True),
            (False, True),
            (None, frozenset({0, 5})),
        )
    ]
    policies = [
        VfPolicy(trust=trust, mac=mac(1), mac_locked=locked, port_vlan=vlan, port_tpid=tpid)
        for trust, locked, (vlan, tpid) in itertools.product(
            (False, True), (False, True), ((0, 0x8100), (5, 0x8100), (5, 0x88A8))
        )
    ]
    frames = [
        frame(dst, mac(0), vlan, tpid)
        for dst, (vlan, tpid) in itertools.product(
            (mac(1), mac(2), mac(3), GROUP, BROADCAST),
            ((None, 0), (0, 0x8100), (5, 0x8100), (5, 0x88A8), (6, 0x9100)),
        )
    ]
    others = [Driver(str(i)).vf for i in range(2)]
    for other in others:
        other.set_filter(wants())
    member = Driver("member").vf
    for wishes, policy in itertools.product(filters, policies):
        member.set_filter(wishes)
        member.set_policy(policy)
        for data in frames:
            got = _switch.routes([others[0], member, others[1]], 0, data)
            assert _switch.accepts(wishes, data, policy) == (1 in got), (wishes, policy, data)
