"""Where a switch sends a frame: the table alone, then through the rings of many guests."""

import itertools
import random

import pytest

from emuiavf.datapath import _switch
from emuiavf.datapath._endpoint import Endpoint
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RxFilter, vlan_tag
from emuiavf.errors import ConfigError
from emuiavf.ports._null import Null
from tests.rings import Driver

BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, number >> 8, number & 255])


def frame(dst: bytes, vlan: int | None = None, tpid: str = "8100") -> bytes:
    tag = b"" if vlan is None else bytes.fromhex(tpid) + vlan.to_bytes(2, "big")
    return dst + mac(999) + tag + b"\x88\xb5" + bytes(46)


def port(wishes: RxFilter | None = None) -> Endpoint:
    """A member with these wishes; None: a port."""
    made = Null("port", {})
    made.rx_filter = wishes
    return made


def wants(*macs: bytes, **kwargs: object) -> RxFilter:
    return RxFilter(frozenset(macs), **kwargs)  # type: ignore[arg-type]


def expected(members: list[RxFilter | None], sender: int, data: bytes) -> list[int]:
    """The rules, member by member."""
    dst, tagged = data[:6], data[12:14] in (b"\x81\0", b"\x88\xa8", b"\x91\0")
    vlan = int.from_bytes(data[14:16], "big") & 0xFFF if tagged else None
    known = any(wishes and dst in wishes.macs for wishes in members)
    found = []
    for number, wishes in enumerate(members):
        if wishes is None:
            wanted = dst[0] & 1 or not known
        else:
            wanted = dst == BROADCAST or dst in wishes.macs
            wanted = wanted or (wishes.promisc_multicast if dst[0] & 1 else wishes.promisc_unicast)
            if vlan is not None and wishes.vlans is not None and vlan not in wishes.vlans:
                wanted = wanted and wishes.promisc_unicast
        if wanted and number != sender:
            found.append(number)
    return found


def test_addresses_groups_and_strangers() -> None:
    members = [port(wants(mac(0))), port(wants(mac(1), GROUP)), port(wants(mac(2))), port()]
    for dst, to in (
        (mac(1), [1]),
        (mac(0), []),  # its sender's own
        (mac(7), [3]),  # nobody's: to ports
        (GROUP, [1, 3]),
        (bytes.fromhex("01005e000002"), [3]),
        (BROADCAST, [1, 2, 3]),
    ):
        assert _switch.routes(members, 0, frame(dst)) == to
    assert _switch.routes(members, 3, frame(mac(7))) == []


def test_promiscuous_members_also_get_what_is_for_others() -> None:
    members = [
        port(wants(mac(0))),
        port(wants(mac(1), promisc_unicast=True)),
        port(wants(mac(2), promisc_multicast=True)),
        port(wants(mac(3))),
    ]
    assert _switch.routes(members, 0, frame(mac(3))) == [1, 3]
    assert _switch.routes(members, 0, frame(GROUP)) == [2]
    assert _switch.routes(members, 0, frame(mac(9))) == [1]


@pytest.mark.parametrize("tpid", ["8100", "88a8", "9100"])
def test_vlans_are_pruned_by_the_outermost_tag(tpid: str) -> None:
    named = frozenset(vlan_tag(vlan, int(tpid, 16)) for vlan in (5, 4095))
    members = [
        port(wants(mac(0))),
        port(wants(mac(1), vlans=named)),
        port(wants(mac(2), vlans=frozenset())),
        port(wants(mac(3), vlans=frozenset(), promisc_unicast=True)),
        port(),
    ]
    assert _switch.routes(members, 0, frame(BROADCAST)) == [1, 2, 3, 4]
    assert _switch.routes(members, 0, frame(BROADCAST, 5, tpid)) == [1, 3, 4]
    assert _switch.routes(members, 0, frame(BROADCAST, 0xF005, tpid)) == [1, 3, 4]
    assert _switch.routes(members, 0, frame(BROADCAST, 6, tpid)) == [3, 4]
    assert _switch.routes(members, 0, frame(mac(1), 4095, tpid)) == [1, 3]
    assert _switch.routes(members, 0, frame(mac(2), 5, tpid)) == [3]
    for other in {"8100", "88a8", "9100"} - {tpid}:
        assert _switch.routes(members, 0, frame(BROADCAST, 5, other)) == [3, 4]
        assert not _switch.accepts(members[1].rx_filter, frame(BROADCAST, 5, other))
    assert _switch.accepts(members[1].rx_filter, frame(BROADCAST, 5, tpid))


@pytest.mark.parametrize("count", [1, 2, 500, 3000])
def test_many_addresses_are_all_found(count: int) -> None:
    rng = random.Random(count)
    macs = {bytes([rng.choice([2, 3])]) + rng.randbytes(5) for _ in range(count)}
    table = wants(*macs)
    # Each look builds the table anew.
    looked = sorted(macs)[:: 1 + count // 60]
    assert all(_switch.accepts(table, frame(one)) for one in looked)
    strangers = {bytes([2]) + rng.randbytes(5) for _ in range(50)} - macs
    assert not any(_switch.accepts(table, frame(one)) for one in strangers)
    members = [port(table), port(wants(mac(1))), port(wants())]
    assert all(_switch.routes(members, 1, frame(one)) == [0] for one in looked)
    assert all(_switch.routes(members, 0, frame(one)) == [] for one in strangers)


def test_random_switches_follow_the_rules() -> None:
    rng = random.Random(1)
    for _ in range(150):
        wishes = [
            None
            if rng.random() < 0.2
            else wants(
                *[mac(rng.randrange(8)) for _ in range(rng.randrange(4))],
                *[GROUP for _ in range(rng.randrange(2))],
                promisc_unicast=rng.random() < 0.2,
                promisc_multicast=rng.random() < 0.2,
                vlans=rng.choice([None, None, frozenset(rng.sample(range(6), 3))]),
            )
            for _ in range(rng.randrange(1, 8))
        ]
        members = [port(one) for one in wishes]
        for dst, vlan in itertools.product(
            [*[mac(i) for i in range(9)], GROUP, BROADCAST], [None, *range(6)]
        ):
            sender = rng.randrange(len(members))
            data = frame(dst, vlan)
            assert _switch.routes(members, sender, data) == expected(wishes, sender, data)


def test_the_filter_of_one_member_agrees_with_the_table_of_a_switch() -> None:
    rng = random.Random(2)
    for _ in range(100):
        wishes = wants(
            *[mac(rng.randrange(6)) for _ in range(rng.randrange(4))],
            promisc_unicast=rng.random() < 0.3,
            promisc_multicast=rng.random() < 0.3,
            vlans=rng.choice([None, frozenset({1, 2})]),
        )
        members = [port(wants()), port(wishes)]
        for dst in [*[mac(i) for i in range(6)], GROUP, BROADCAST]:
            for vlan in (None, 1, 3):
                data = frame(dst, vlan)
                assert _switch.accepts(wishes, data) == (_switch.routes(members, 0, data) == [1])


def test_64_members() -> None:
    members = [port(wants(mac(i))) for i in range(64)]
    assert _switch.routes(members, 63, frame(BROADCAST)) == list(range(63))
    assert _switch.routes(members, 0, frame(mac(63))) == [63]
    with pytest.raises(ValueError, match="at most 64"):
        _switch.routes([*members, port()], 0, frame(BROADCAST))
    engine = Engine()
    for one in [*members, port()]:
        engine.add(one)
    with pytest.raises(ConfigError, match="at most 64"):
        engine.connect(*engine._endpoints)
    # Nothing has remained of the attempt.
    engine.connect(*members)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_rings_of_a_switch_replicate_and_keep_order(count: int) -> None:
    engine = Engine()
    drivers = [Driver(str(i), ring_len=32) for i in range(count)]
    for i, driver in enumerate(drivers):
        driver.vf.set_filter(wants(mac(i)))
        driver.enable()
        engine.add(driver.vf)
        driver.post(31)
    sink = port()
    engine.add(sink)
    engine.connect(*[driver.vf for driver in drivers], sink)
    sent = [
        frame(dst) + bytes([n]) for n, dst in enumerate([BROADCAST, mac(1), mac(500), mac(2)] * 3)
    ]
    for data in sent:
        drivers[0].send(data)
    engine.step()
    for i, driver in enumerate(drivers):
        mine = [d for d in sent if i and d[:6] in (BROADCAST, mac(i))]
        assert [f.data for f in driver.receive()] == mine
    assert sink.rows[0][6] == 6  # broadcasts and the stranger's
    assert drivers[0].rows[1][6] == len(sent)
