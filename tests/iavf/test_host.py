"""The host's decisions as the guest's driver sees them: `ip link set ... vf` on ice."""

import struct
from dataclasses import replace
from typing import Any

import pytest

from emuiavf.iavf.host import IavfHost
from emuiavf.policy import LinkPolicy, VfPolicy
from tests.fakes.vf_driver import VfDriver
from tests.iavf.conftest import (
    LINK_CHANGE,
    MAC,
    Bench,
    again,
    events,
    resources,
)

OTHER = bytes.fromhex("525400aaaaaa")
ADD_ETH_ADDR = 10
VLAN_V2 = 1 << 15


@pytest.fixture
def host(bench: Bench) -> IavfHost:
    return IavfHost(bench.device)


def change(host: IavfHost, **fields: Any) -> None:
    host.set_policy(replace(host.view.policy, **fields))


def own_mac(body: bytes) -> bytes:
    return body[20 + 10 : 20 + 16]


def add_mac(driver: VfDriver, mac: bytes, kind: int = 2) -> int:
    driver.send(ADD_ETH_ADDR, struct.pack("<HH6sBB", 1, 1, mac, kind, 0))
    answer = driver.receive()
    assert answer is not None
    return answer.status


def test_policy_reaches_the_data_path_at_once(bench: Bench, host: IavfHost) -> None:
    change(host, max_rate=10, spoofchk=True, port_vlan=5)
    assert bench.control.policies == [
        VfPolicy(mac=MAC),
        VfPolicy(mac=MAC, max_rate=10, spoofchk=True, port_vlan=5),
    ]


def test_mac_of_the_host_is_the_guests_after_a_reset(
    bench: Bench, host: IavfHost, driver: VfDriver
) -> None:
    change(host, mac=OTHER, mac_locked=True)
    assert own_mac(again(bench, driver)) == OTHER
    assert host.view.mac == OTHER


def test_mac_of_the_host_binds_the_guest_until_it_is_taken_back(
    bench: Bench, host: IavfHost, driver: VfDriver
) -> None:
    change(host, mac=OTHER, mac_locked=True)
    again(bench, driver)
    assert add_mac(driver, MAC) == -53
    assert add_mac(driver, OTHER) == 0
    assert add_mac(driver, b"\x01\x00\x5e\x00\x00\x05") == 0
    change(host, mac=bytes(6), mac_locked=False)
    assert own_mac(again(bench, driver)) == bytes(6)
    assert add_mac(driver, MAC, kind=1) == 0
    assert host.view.mac == MAC


def test_mac_changed_twice_while_a_reset_is_held(
    bench: Bench, host: IavfHost, driver: VfDriver
) -> None:
    while not bench.device.in_reset:
        bench.device.reset_without_notice()
    for mac in (OTHER, MAC, OTHER):
        change(host, mac=mac, mac_locked=True)
    while bench.device.in_reset:
        bench.loop.run_once(1)
    driver.open()
    driver.send(1, struct.pack("<II", 1, 1))
    driver.receive()
    assert own_mac(resources(driver)) == OTHER


@pytest.mark.parametrize(
    ("policy", "up"), [(LinkPolicy.DISABLE, 0), (LinkPolicy.ENABLE, 1), (LinkPolicy.AUTO, 1)]
)
def test_link_state_is_told_without_a_reset(
    host: IavfHost, driver: VfDriver, policy: LinkPolicy, up: int
) -> None:
    other = LinkPolicy.AUTO if policy is LinkPolicy.ENABLE else LinkPolicy.ENABLE
    change(host, link_state=other)
    events(driver)
    change(host, link_state=policy)
    (event,) = events(driver)
    assert struct.unpack_from("<iIB", event)[0::2] == (LINK_CHANGE, up)
    assert host.view.link_up == bool(up)


def test_mtu_is_told_by_a_reset(bench: Bench, host: IavfHost, driver: VfDriver) -> None:
    change(host, mtu=1500)
    assert struct.unpack_from("<H", again(bench, driver), 6) == (1526,)


def test_port_vlan_resets_and_takes_its_tag_from_the_frame(
    bench: Bench, host: IavfHost, driver: VfDriver
) -> None:
    change(host, port_vlan=5)
    assert struct.unpack_from("<H", again(bench, driver), 6) == (9728 - 4,)


def test_trust_resets(bench: Bench, host: IavfHost, driver: VfDriver) -> None:
    change(host, trust=False)
    again(bench, driver)


@pytest.mark.parametrize(
    "fields", [{"spoofchk": True}, {"max_rate": 10}, {"min_rate": 5}], ids=lambda f: next(iter(f))
)
def test_what_the_driver_need_not_know_does_not_reset(
    host: IavfHost, driver: VfDriver, fields: dict[str, Any]
) -> None:
    change(host, **fields)
    assert events(driver) == []


def test_reset_gives_notice(bench: Bench, host: IavfHost, driver: VfDriver) -> None:
    host.reset()
    again(bench, driver)


def test_view_has_the_matches_of_rules(host: IavfHost) -> None:
    assert host.view.rules == {3: 7}


def test_view_says_how_far_the_driver_is(bench: Bench, host: IavfHost) -> None:
    assert host.view.driver == "not ready"
    driver = bench.driver()
    driver.send(1, struct.pack("<II", 1, 1))
    driver.receive()
    resources(driver)
    assert host.view.driver == "ready"
    bench.device.detached()
    assert host.view.driver == "none"
    bench.device.attached()
    while not bench.device.in_reset:
        bench.device.reset_without_notice()
    assert host.view.driver == "in reset"
