"""What a switch learns of its ports, which of them gets a frame, and how much may be flooded."""

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from emuiavf.datapath import _switch
from emuiavf.datapath._endpoint import Endpoint
from emuiavf.datapath._switch import Learned
from emuiavf.datapath.engine import Engine
from emuiavf.datapath.switches import SwitchConf
from emuiavf.emudev import vdev
from emuiavf.emudev.info import RxFilter
from emuiavf.emudev.vdev import VdevArgs
from emuiavf.errors import ConfigError, StateError
from emuiavf.policy import VfPolicy
from emuiavf.ports import kinds
from emuiavf.ports._null import Null
from tests.rings import Driver

DEADLINE_S = 10.0
DISCARDS, PACKETS, STORM = 4, 6, 13
AGE = 300
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")


def mac(number: int) -> bytes:
    return bytes([2, 0, 0]) + number.to_bytes(3, "big")


def frame(dst: bytes, src: bytes, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else b"\x81\0" + vlan.to_bytes(2, "big")
    return dst + src + tag + b"\x88\xb5" + bytes(46)


def guest(*macs: bytes, **kwargs: object) -> Endpoint:
    made = Null("guest", {})
    made.rx_filter = RxFilter(frozenset(macs), **kwargs)  # type: ignore[arg-type]
    return made


def port() -> Endpoint:
    return Null("port", {})


# --- The table ----------------------------------------------------------------------------------


def test_a_hundred_thousand_addresses_are_all_known() -> None:
    learned = Learned(AGE)
    rng = random.Random(1)
    stations = [
        *(mac(i) for i in range(50_000)),
        *{bytes([2]) + rng.randbytes(5) for _ in range(50_000)},
    ]
    for number, station in enumerate(stations):
        learned.learn(station, 0, number % 64, 10)
    assert all(learned.find(s, 0, 10) == n % 64 for n, s in enumerate(stations))
    assert learned.evicted == 0
    assert len(learned.entries(10)) == len(set(stations))
    assert not any(learned.find(bytes([6]) + rng.randbytes(5), 0, 10) for _ in range(1000))


@pytest.mark.parametrize("most", [1, 7, 1000, 100_000])
def test_a_table_is_told_in_parts_each_address_once(most: int) -> None:
    learned = Learned(AGE)
    for i in range(2000 if most > 1 else 50):
        learned.learn(mac(i), i % 3, i % 64, 10 if i % 5 else 0)
    found, start, parts = [], 0, 0
    while True:
        part, start = learned.page(AGE + 5, start, most)
        assert len(part) <= most
        found += part
        parts += 1
        if not start:
            break
    assert found == learned.entries(AGE + 5)
    assert len(found) == learned.count(AGE + 5) == len(set(found)) > 0
    assert parts == -(-len(found) // most)


def test_an_address_that_is_silent_is_forgotten_after_its_age() -> None:
    learned = Learned(5)
    learned.learn(mac(1), 0, 3, 100)
    learned.learn(mac(2), 0, 3, 104)
    assert learned.find(mac(1), 0, 105) == 3
    assert learned.find(mac(1), 0, 106) is None
    assert learned.entries(106) == [(mac(2), 0, 3, 2)]
    learned.learn(mac(1), 0, 4, 106)
    assert learned.find(mac(1), 0, 111) == 4


def test_a_clock_that_was_read_earlier_finds_what_was_learned_later() -> None:
    learned = Learned(5)
    learned.learn(mac(1), 0, 3, 100)
    assert learned.find(mac(1), 0, 99) == 3


def test_an_address_moves_at_once_and_is_another_station_in_another_vlan() -> None:
    learned = Learned(AGE)
    learned.learn(mac(1), 0, 1, 10)
    learned.learn(mac(1), 7, 2, 10)
    assert [learned.find(mac(1), vlan, 10) for vlan in (0, 7, 8)] == [1, 2, None]
    learned.learn(mac(1), 0, 5, 10)
    assert [learned.find(mac(1), vlan, 10) for vlan in (0, 7)] == [5, 2]


def test_a_flood_of_addresses_is_bounded_and_the_latest_are_known() -> None:
    learned = Learned(AGE)
    rng = random.Random(2)
    for i in range(400_000):
        learned.learn(bytes([2]) + rng.randbytes(5), 0, 1, 10 + i // 40_000)
    assert learned.evicted > 0
    assert len(learned.entries(20)) <= 1 << 18
    late = [bytes([6]) + rng.randbytes(5) for _ in range(1000)]
    for station in late:
        learned.learn(station, 0, 2, 20)
    assert sum(learned.find(station, 0, 20) == 2 for station in late) > 990


def test_old_addresses_make_room_before_others() -> None:
    learned = Learned(5)
    rng = random.Random(3)
    for _ in range(260_000):
        learned.learn(bytes([2]) + rng.randbytes(5), 0, 1, 10)
    before = learned.evicted
    fresh = [bytes([6]) + rng.randbytes(5) for _ in range(100_000)]
    for station in fresh:
        learned.learn(station, 0, 2, 16)
    assert learned.evicted == before
    assert all(learned.find(station, 0, 16) == 2 for station in fresh)


def test_what_was_behind_a_member_that_left_is_forgotten() -> None:
    learned = Learned(AGE)
    for i in range(2000):
        learned.learn(mac(i), 0, i % 2, 10)
    learned.forget(1)
    assert sorted(m for m, *_ in learned.entries(10)) == [mac(i) for i in range(0, 2000, 2)]
    learned.learn(mac(1), 0, 0, 10)
    assert learned.find(mac(1), 0, 10) == 0


# --- The switch ---------------------------------------------------------------------------------


def test_a_station_behind_a_port_gets_what_is_for_it_by_that_port_alone() -> None:
    learned = Learned(AGE)
    members = [guest(mac(0)), port(), port(), guest(mac(3))]

    def routes(sender: int, data: bytes, now_s: int = 10) -> list[int]:
        return _switch.routes(members, sender, data, learned, now_s)

    assert routes(0, frame(mac(50), mac(0))) == [1, 2]
    assert routes(2, frame(mac(0), mac(50))) == [0]
    assert routes(0, frame(mac(50), mac(0))) == [2]
    assert routes(1, frame(mac(50), mac(60))) == [2]
    # Behind the very port that it comes from.
    assert routes(2, frame(mac(50), mac(61))) == []
    assert routes(0, frame(mac(60), mac(0))) == [1]
    # Never learned: a guest's own address, a group, and none at all.
    for source in (mac(3), GROUP, bytes(6)):
        routes(1, frame(BROADCAST, source))
    assert routes(0, frame(mac(3), mac(0))) == [3]
    assert {station for station, *_ in learned.entries(10)} == {mac(50), mac(60), mac(61)}
    # Nor what a guest sends from.
    routes(0, frame(BROADCAST, mac(70)))
    assert routes(3, frame(mac(70), mac(3))) == [1, 2]
    assert routes(0, frame(mac(50), mac(0)), 10 + AGE + 1) == [1, 2]


def test_stations_of_two_vlans_are_told_apart() -> None:
    learned = Learned(AGE)
    members = [guest(mac(0)), port(), port()]
    _switch.routes(members, 1, frame(mac(0), mac(50), 5), learned, 10)
    _switch.routes(members, 2, frame(mac(0), mac(50), 6), learned, 10)
    for vlan, to in ((5, [1]), (6, [2]), (7, [1, 2]), (None, [1, 2])):
        assert _switch.routes(members, 0, frame(mac(50), mac(0), vlan), learned, 10) == to


def test_a_frame_that_the_network_reflects_does_not_come_back_to_its_sender() -> None:
    members = [guest(mac(0), mac(10)), guest(mac(1), promisc_unicast=True), port()]
    for dst, source, to in (
        (BROADCAST, mac(0), [1]),
        (BROADCAST, mac(10), [1]),
        (mac(0), mac(0), [1]),
        (BROADCAST, mac(1), [0]),
        (BROADCAST, mac(9), [0, 1]),
        (mac(0), mac(1), [0]),
    ):
        assert _switch.routes(members, 2, frame(dst, source)) == to
    # From a guest an address proves nothing: whether it is checked is the host's decision.
    assert _switch.routes(members, 1, frame(mac(0), mac(0))) == [0]


def test_random_switches_learn_as_a_model_does() -> None:
    rng = random.Random(5)
    for _ in range(20):
        count = rng.randrange(3, 9)
        ports = set(rng.sample(range(count), rng.randrange(2, count)))
        members = [port() if i in ports else guest(mac(i)) for i in range(count)]
        learned, model = Learned(AGE), {}
        for _ in range(120):
            sender = rng.randrange(count)
            source = mac(rng.randrange(100, 110)) if sender in ports else mac(sender)
            dst = rng.choice([BROADCAST, mac(rng.randrange(count)), mac(rng.randrange(100, 110))])
            vlan = rng.choice([None, 5])
            got = _switch.routes(members, sender, frame(dst, source, vlan), learned, 10)
            if sender in ports:
                model[source, vlan] = sender
            owner = next((i for i in range(count) if i not in ports and dst == mac(i)), None)
            if dst == BROADCAST:
                to = set(range(count))
            elif owner is not None:
                to = {owner}
            else:
                to = {model[dst, vlan]} if (dst, vlan) in model else ports
            assert got == sorted(to - {sender})


# --- Through an engine --------------------------------------------------------------------------


def generator(name: str, **options: str) -> tuple[Endpoint, np.ndarray]:
    kind = kinds["gen"]
    rows = np.zeros((2, 16), np.uint64)
    return kind.create(name, vdev.resolve(VdevArgs("gen", name, options), kind.options), rows), rows


def switched(
    count: int, conf: SwitchConf | None = None, workers: int = 1
) -> tuple[Engine, list[Driver]]:
    """`count` guests with address mac(i) as members 0 and up of the switch sw0."""
    engine = Engine(workers)
    engine.add_switch("sw0", conf)
    drivers = [Driver(str(i), ring_len=512) for i in range(count)]
    for i, driver in enumerate(drivers):
        driver.vf.set_filter(RxFilter(frozenset({mac(i)})))
        driver.enable()
        driver.post(500)
        engine.add(driver.vf)
    engine.join("sw0", *[driver.vf for driver in drivers])
    return engine, drivers


def ways_out(engine: Engine, name: str, ring_len: int) -> list[Driver]:
    """Two that receive everything, as a TAP does; in no switch yet."""
    drivers = [Driver(f"{name}{i}", ring_len=ring_len) for i in range(2)]
    for driver in drivers:
        driver.enable()
        driver.post(ring_len - 4)
        engine.add(driver.vf)
    return drivers


def test_members_join_and_leave_and_what_was_behind_them_is_forgotten() -> None:
    engine, (a, b) = switched(2)
    uplinks = ways_out(engine, "uplink", 64)

    def sent(driver: Driver, data: bytes) -> list[int]:
        """Who gets it: guests 0 and 1, uplinks 2 and 3."""
        driver.send(data)
        engine.step()
        return [i for i, d in enumerate([a, b, *uplinks]) if d.receive()]

    # A Vf without a filter and without a policy is a port like any other.
    assert sent(a, frame(mac(50), mac(0))) == []
    engine.join("sw0", uplinks[0].vf)
    assert sent(a, frame(mac(50), mac(0))) == [2]
    assert engine.stations("sw0") == []
    engine.join("sw0", uplinks[1].vf)
    assert sent(a, frame(mac(50), mac(0))) == [2, 3]
    assert sent(uplinks[1], frame(mac(0), mac(50))) == [0]
    assert sent(a, frame(mac(50), mac(0))) == [3]
    stations = engine.stations("sw0")
    assert [(s.mac, s.vlan, s.port) for s in stations] == [(mac(50), 0, "uplink1")]
    engine.leave("sw0", uplinks[1].vf)
    assert engine.stations("sw0") == []
    assert sent(a, frame(mac(50), mac(0))) == [2]
    # The next member gets the number that is free, and nothing that was known of it.
    engine.join("sw0", uplinks[1].vf)
    assert sent(a, frame(mac(50), mac(0))) == [2, 3]
    engine.remove(b.vf)
    assert sent(a, frame(BROADCAST, mac(0))) == [2, 3]


def told(engine: Engine, name: str, most: int = 3) -> list[tuple[bytes, str, int, bool]]:
    """All of `fdb`, a few at a time."""
    found, start = [], 0
    while True:
        part, start = engine.fdb(name, start, most)
        assert len(part) <= most
        found += [(one.mac, one.port, one.vlan, one.permanent) for one in part]
        if not start:
            return found


def test_fdb_has_what_was_learned_and_what_guests_asked_for() -> None:
    engine, (_, b) = switched(2)
    b.vf.set_filter(RxFilter(frozenset({mac(1), mac(11), mac(12), mac(13), GROUP})))
    engine.refilter(b.vf)
    asked = [
        (mac(0), "0", 0, True),
        *((one, "1", 0, True) for one in sorted([mac(1), mac(11), mac(12), mac(13), GROUP])),
    ]
    assert told(engine, "sw0") == asked
    uplinks = ways_out(engine, "uplink", 64)
    engine.join("sw0", *[uplink.vf for uplink in uplinks])
    for i, uplink in enumerate(uplinks):
        uplink.send(frame(mac(0), mac(50 + i), 5 * i or None))
    engine.step()
    learned = [(mac(50), "uplink0", 0, False), (mac(51), "uplink1", 5, False)]
    found = told(engine, "sw0")
    assert sorted(found[:2]) == learned
    assert found[2:] == asked
    # What the host does not let take effect is not said to be in effect.
    engine.set_policy(b.vf, VfPolicy(mac=mac(1), mac_locked=True))
    assert told(engine, "sw0")[2:] == [one for one in asked if one[0] in (mac(0), mac(1), GROUP)]
    (view,) = engine.switches()
    assert (view.name, view.members) == ("sw0", ("0", "1", "uplink0", "uplink1"))
    assert (view.age, view.storm, view.learned, view.evicted) == (AGE, 100_000, 2, 0)


def test_switches_without_a_name_are_called_by_their_members() -> None:
    engine = Engine()
    drivers = [Driver(name, ring_len=64) for name in "abcde"]
    for i, driver in enumerate(drivers):
        driver.vf.set_filter(RxFilter(frozenset({mac(i)})))
        driver.enable()
        engine.add(driver.vf)
    engine.connect(drivers[0].vf, drivers[1].vf)
    engine.connect(*[driver.vf for driver in drivers[2:]])
    assert [one.name for one in engine.switches()] == ["c,d,e"]
    assert [(m, port) for m, port, *_ in told(engine, "c,d,e")] == [
        (mac(i), "abcde"[i]) for i in (2, 3, 4)
    ]
    with pytest.raises(ConfigError, match="no switch 'a,b'; there are c,d,e"):
        engine.fdb("a,b", 0, 1)


def test_switches_of_one_engine_do_not_hear_each_other() -> None:
    engine = Engine()
    drivers = [Driver(str(i), ring_len=64) for i in range(4)]
    for name in ("sw0", "sw1"):
        engine.add_switch(name)
    for i, driver in enumerate(drivers):
        driver.vf.set_filter(RxFilter(frozenset({mac(i % 2)})))
        driver.enable()
        driver.post(60)
        engine.add(driver.vf)
        engine.join(f"sw{i // 2}", driver.vf)
    for driver in drivers:
        driver.send(frame(BROADCAST, mac(9)))
    drivers[2].send(frame(mac(1), mac(0)))
    engine.step()
    assert [len(driver.receive()) for driver in drivers] == [1, 1, 1, 2]


def test_a_switch_of_two_never_holds() -> None:
    engine, (a, b) = switched(2)
    for _ in range(501):
        a.send(frame(mac(1), mac(0)))
    engine.step(20)
    assert len(b.receive()) == 500
    assert b.rows[0][7] == 1


def test_names_and_members_are_checked() -> None:
    engine, (a, b) = switched(2)
    with pytest.raises(ConfigError, match="sw0: there is a switch of that name"):
        engine.add_switch("sw0")
    with pytest.raises(ConfigError, match="no switch 'sw9'; there are sw0"):
        engine.join("sw9", a.vf)
    with pytest.raises(ConfigError, match="0: connected already"):
        engine.join("sw0", a.vf)
    with pytest.raises(ConfigError, match="1: connected already"):
        engine.connect(b.vf)
    with pytest.raises(StateError, match="not connected"):
        engine.disconnect(a.vf, b.vf)
    with pytest.raises(ConfigError, match="port: no member of sw0"):
        engine.leave("sw0", port())
    others = [port() for _ in range(63)]
    for other in others:
        engine.add(other)
    with pytest.raises(ConfigError, match="at most 64"):
        engine.join("sw0", *others)
    engine.join("sw0", *others[:62])


def test_a_storm_of_one_source_is_bounded_and_disturbs_nobody_else() -> None:
    engine, (a, b, c) = switched(3, SwitchConf(storm=1000))
    for _ in range(100):
        a.send(frame(BROADCAST, mac(0)))
        a.send(frame(mac(1), mac(0)))
    for _ in range(8):
        c.send(frame(BROADCAST, mac(2)))
    began = time.monotonic()
    engine.step(10)
    most = 12 + 1000 * (time.monotonic() - began)
    flooded = len([f for f in b.receive() if f.data[6:12] == mac(0)]) - 100
    assert 10 <= flooded <= most
    assert a.rows[1][[STORM, DISCARDS]].tolist() == [100 - flooded] * 2
    assert c.rows[1][STORM] == 0
    assert len(a.receive()) == 8


def test_a_storm_without_a_limit_passes() -> None:
    engine, (a, b, c) = switched(3, SwitchConf(storm=0))
    for _ in range(400):
        a.send(frame(BROADCAST, mac(0)))
    engine.step(20)
    assert [len(driver.receive()) for driver in (a, b, c)] == [0, 400, 400]


def test_frames_for_a_known_station_are_no_flood() -> None:
    engine, (a, b) = switched(2, SwitchConf(storm=1))
    ports = ways_out(engine, "port", 512)
    engine.join("sw0", *[uplink.vf for uplink in ports])
    ports[0].send(frame(mac(0), mac(50)))
    engine.step()
    for _ in range(300):
        a.send(frame(mac(50), mac(0)))
    engine.step(20)
    assert [len(uplink.receive()) for uplink in ports] == [300, 0]
    # One of an address that nobody has seen is a flood of two; the next has to wait a second.
    for _ in range(50):
        b.send(frame(mac(51), mac(1)))
    engine.step(5)
    assert b.rows[1][STORM] == 49


class Wire(threading.Thread):
    """Plugs two ports of a switch into each other: each frame that one gets, the other sends."""

    def __init__(self, ends: list[Driver]) -> None:
        super().__init__()
        self.ends = ends
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.0005):
            for here, there in (self.ends, self.ends[::-1]):
                got = here.receive()
                if got:
                    here.post(len(got))
                for one in got:
                    there.top = there.start
                    there.send(one.data)


def until(true: Callable[[], bool], what: str) -> None:
    tick = threading.Event()
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, what
        tick.wait(0.001)


def test_a_loop_between_two_ports_costs_no_more_than_the_limit() -> None:
    """One broadcast goes round for ever; a guest's unicast still arrives, all of it."""
    engine, (a, b) = switched(2, SwitchConf(storm=500))
    ends = [Driver(f"end{i}", ring_len=64) for i in range(2)]
    for end in ends:
        end.start = end.top
        end.enable()
        end.post(60)
        engine.add(end.vf)
    engine.join("sw0", *[end.vf for end in ends])
    wire = Wire(ends)
    engine.start()
    wire.start()
    try:
        began = time.monotonic()
        for _ in range(20):
            a.send(frame(BROADCAST, mac(0)))
        until(lambda: sum(end.rows[1][STORM] for end in ends) > 0, "nothing loops")
        for _ in range(100):
            a.send(frame(mac(1), mac(0)))
        until(lambda: b.rows[0][1] == 100, "unicast is lost")
        looped = int(b.rows[0][3])
        assert looped <= 20 + 2 * (10 + 500 * (time.monotonic() - began))
    finally:
        wire.over.set()
        wire.join()
        engine.stop()


def test_workers_learn_while_stations_are_listed_and_members_leave() -> None:
    """Several workers learn of several ports at once; nothing that is known is wrong."""
    engine, _ = switched(1, workers=3)
    ends = [
        generator(f"gen{i}", src=f"02:00:00:00:00:{0x90 + i:02x}", dst="02:00:00:00:00:00")
        for i in range(3)
    ]
    sinks = [port() for _ in range(2)]
    for endpoint in [*(end for end, _ in ends), *sinks]:
        engine.add(endpoint)
    engine.join("sw0", *sinks, *(end for end, _ in ends))
    engine.start()
    try:
        for _ in range(30):
            before = [int(rows[1][PACKETS]) for _, rows in ends]
            until(
                lambda before=before: all(
                    rows[1][PACKETS] > was for (_, rows), was in zip(ends, before, strict=True)
                ),
                "no traffic",
            )
            known = {station.mac: station.port for station in engine.stations("sw0")}
            assert known == {bytes([2, 0, 0, 0, 0, 0x90 + i]): f"gen{i}" for i in range(3)}
            engine.leave("sw0", ends[1][0])
            assert {station.port for station in engine.stations("sw0")} == {"gen0", "gen2"}
            engine.join("sw0", ends[1][0])
    finally:
        engine.stop()
