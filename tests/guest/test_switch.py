"""A named switch in a backend: several drivers, ports, and what the host decided about each VF."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emuiavf.app import Backend
from emuiavf.guest.driver import VfDriver
from emuiavf.policy import VfPolicy
from emuiavf.stats import TX_COUNTERS
from tests.guest.test_e2e import until

BROADCAST = b"\xff" * 6
STATION = bytes.fromhex("020000000099")
FROM_GUEST, PACKETS = 0, 6
SPOOFED, FILTERED, STORM = map(TX_COUNTERS.index, ("spoofed", "filtered", "storm"))


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number + 1])


def frame(dst: bytes, src: bytes, vlan: int | None = None, mark: int = 0) -> bytes:
    tag = b"" if vlan is None else b"\x81\0" + vlan.to_bytes(2, "big")
    return dst + src + tag + b"\x88\xb5" + bytes([mark]) * 46


class Net:
    """VFs 0 and up and their drivers, in the switch sw0 with two ports that count."""

    def __init__(self, folder: Path, stack: ExitStack, count: int) -> None:
        self.backend = stack.enter_context(Backend())
        self.backend.add_switch("sw0,age=60,storm=10000")
        for port in ("uplink0", "uplink1"):
            self.backend.add_port(f"{port},type=null")
        names = [f"emu_iavf{i}" for i in range(count)]
        for i, name in enumerate(names):
            text = f"{name},path={folder}/{i}.sock,mac={mac(i).hex(':')},queues=1"
            self.backend.add_device(text)
        self.backend.connect("sw0", *names[:-1], "uplink0", "uplink1")
        self.backend.start()
        # A VF may join a switch that has traffic.
        self.backend.connect("sw0", names[-1])
        self.drivers = [stack.enter_context(VfDriver(f"{folder}/{i}.sock")) for i in range(count)]
        for driver in self.drivers:
            driver.start(1)

    def set_policy(self, number: int, policy: VfPolicy) -> None:
        served = self.backend._devices[f"emu_iavf{number}"]
        assert served.data_path is not None
        self.backend._on_control(lambda: served.data_path.set_policy(policy))  # type: ignore

    def counter(self, number: int, column: int) -> int:
        """Of the one Tx queue that there is."""
        rows = self.backend.counters[f"emu_iavf{number}"]
        return int(rows[len(rows) // 2, column])

    def uplinks(self) -> list[int]:
        return [int(self.backend.counters[f"uplink{i}"][FROM_GUEST, PACKETS]) for i in range(2)]

    def sent(self, number: int, *frames: bytes) -> list[list[bytes]]:
        """What every driver has received when all that driver `number` sent has been judged."""
        wanted = self.judged(number) + len(frames)
        assert self.drivers[number].queues[0].send(frames) == len(frames)
        assert until(lambda: self.judged(number) >= wanted), "not all frames were taken"
        return [[f.data for f in driver.queues[0].receive()] for driver in self.drivers]

    def judged(self, number: int) -> int:
        return self.counter(number, PACKETS) + self.counter(number, SPOOFED)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(tmp_path, stack, 4)


def test_frames_between_guests_are_delivered_once_and_not_to_the_uplink(net: Net) -> None:
    data = frame(mac(2), mac(0))
    assert net.sent(0, data) == [[], [], [data], []]
    assert net.uplinks() == [0, 0]
    everybody = frame(BROADCAST, mac(3))
    assert net.sent(3, everybody) == [[everybody]] * 3 + [[]]
    assert net.uplinks() == [1, 1]


def test_frames_for_strangers_go_to_the_port_that_they_were_seen_at(net: Net) -> None:
    net.sent(0, frame(STATION, mac(0)))
    assert net.uplinks() == [1, 1]
    backend = net.backend
    net.backend.add_port(f"gen0,type=gen,count=1,src={STATION.hex(':')},dst={mac(0).hex(':')}")
    net.backend.connect("sw0", "gen0")
    assert until(lambda: bool(backend.stations("sw0")))
    assert [(s.mac, s.port) for s in backend.stations("sw0")] == [(STATION, "gen0")]
    # There it is, and gen0 takes nothing.
    net.sent(0, frame(STATION, mac(0)))
    assert net.uplinks() == [1, 1]
    assert net.counter(0, FILTERED) == 1
    net.backend.disconnect("sw0", "gen0")
    net.sent(0, frame(STATION, mac(0)))
    assert net.uplinks() == [2, 2]


def test_what_the_network_reflects_does_not_come_back(net: Net) -> None:
    own = mac(0).hex(":")
    net.backend.add_port(f"mirror,type=gen,count=5,src={own},dst={own}")
    net.backend.connect("sw0", "mirror")
    rows = net.backend.counters["mirror"]
    assert until(lambda: rows[1, FILTERED] == 5)
    assert net.sent(0, frame(mac(1), mac(0)))[0] == []
    assert net.backend.stations("sw0") == []


def test_a_guest_floods_no_more_than_its_switch_allows(net: Net) -> None:
    """The 10 ms of 10,000 frames a second that it may have at once, and what time adds."""
    began = time.monotonic()
    net.sent(0, *[frame(BROADCAST, mac(0))] * 200)
    net.sent(0, *[frame(BROADCAST, mac(0))] * 200)
    passed = net.uplinks()[0]
    assert 100 <= passed <= 102 + 10_000 * (time.monotonic() - began)
    assert net.counter(0, STORM) == 400 - passed
    everybody = frame(BROADCAST, mac(1))
    assert net.sent(1, everybody)[0] == [everybody]


def test_spoofed_frames_are_dropped_and_counted(net: Net) -> None:
    net.set_policy(0, VfPolicy(spoofchk=True))
    honest = frame(mac(1), mac(0))
    assert net.sent(0, frame(mac(1), STATION), honest) == [[], [honest], [], []]
    assert net.counter(0, SPOOFED) == 1
    net.drivers[0].settings.add_macs(STATION)
    late = frame(mac(1), STATION)
    assert net.sent(0, late)[1] == [late]
    net.set_policy(0, VfPolicy())


def test_guests_of_two_port_vlans_live_apart(net: Net) -> None:
    for number, vlan in enumerate((10, 10, 20, 20)):
        net.set_policy(number, VfPolicy(port_vlan=vlan))
    everybody = frame(BROADCAST, mac(0))
    assert net.sent(0, everybody, frame(mac(2), mac(0))) == [[], [everybody], [], []]
    assert net.uplinks() == [1, 1]
    assert net.counter(0, FILTERED) == 1
    assert net.sent(3, frame(mac(2), mac(3), 20)) == [[]] * 4
    assert net.counter(3, SPOOFED) == 1
    answer = frame(mac(2), mac(3))
    assert net.sent(3, answer) == [[], [], [answer], []]
    # A reset of the guest changes nothing that the host decided.
    net.drivers[2].reset()
    assert net.sent(0, everybody) == [[], [everybody], [], []]
    assert net.sent(3, answer) == [[], [], [answer], []]


def test_member_that_leaves_is_alone_and_the_others_go_on(net: Net) -> None:
    net.backend.disconnect("sw0", "emu_iavf1")
    everybody = frame(BROADCAST, mac(0))
    assert net.sent(0, everybody) == [[], [], [everybody], [everybody]]
    net.backend.add_port("other,type=null")
    net.backend.connect("emu_iavf1", "other")
    assert net.sent(1, everybody) == [[]] * 4
    assert net.backend.counters["other"][FROM_GUEST, PACKETS] == 1
    assert net.uplinks() == [1, 1]
