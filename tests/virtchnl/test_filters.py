"""Addresses and promiscuous mode: the filter that follows, the address that is reported."""

import pytest

from emuiavf.emudev.info import RxFilter
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Op, Status
from tests.fakes.vf import MAC, OTHER_MAC, FakeVf

LEGACY, PRIMARY, EXTRA = 0, 1, 2
MULTICAST = bytes.fromhex("01005e000001")
BROADCAST = b"\xff" * 6
ZERO = bytes(6)


def add(vf: FakeVf, *addresses: tuple[bytes, int], vsi_id: int = 1) -> Status:
    items = [m.EtherAddr(addr, kind) for addr, kind in addresses]
    return vf.status(Op.ADD_ETH_ADDR, m.EtherAddrList(vsi_id), items)


def delete(vf: FakeVf, *addresses: bytes, vsi_id: int = 1) -> Status:
    items = [m.EtherAddr(addr) for addr in addresses]
    return vf.status(Op.DEL_ETH_ADDR, m.EtherAddrList(vsi_id), items)


def promisc(vf: FakeVf, flags: int, vsi_id: int = 1) -> Status:
    return vf.status(Op.CONFIG_PROMISCUOUS_MODE, m.PromiscInfo(vsi_id, flags))


def received(vf: FakeVf) -> frozenset[bytes]:
    """The addresses in the filter that the data path has."""
    macs: frozenset[bytes] = vf.datapath.last("set_rx_filter").macs
    return macs


def groups(count: int) -> list[tuple[bytes, int]]:
    return [(b"\x01\x00\x5e\x00" + i.to_bytes(2, "big"), EXTRA) for i in range(count)]


def test_own_address_is_received_from_the_start() -> None:
    assert FakeVf().datapath.calls[0] == ("set_rx_filter", RxFilter(frozenset({MAC})))


def test_vf_without_an_address_receives_only_broadcast() -> None:
    vf = FakeVf(VfPolicy())
    assert vf.datapath.calls[0] == ("set_rx_filter", RxFilter())
    assert vf.bring_up().resources().default_mac_addr == ZERO


def test_vf_without_an_address_gets_its_own_by_adding_one() -> None:
    vf = FakeVf(VfPolicy()).bring_up()
    assert add(vf, (OTHER_MAC, LEGACY)) == Status.SUCCESS
    assert vf.resources().default_mac_addr == OTHER_MAC


@pytest.mark.parametrize("addr", [OTHER_MAC, MULTICAST])
def test_added_address_is_received(addr: bytes) -> None:
    vf = FakeVf().bring_up()
    assert add(vf, (addr, EXTRA)) == Status.SUCCESS
    assert received(vf) == {MAC, addr}
    assert vf.session.mac == MAC


@pytest.mark.parametrize("addr", [ZERO, BROADCAST, MAC])
def test_adding_what_is_no_news_succeeds_and_changes_nothing(addr: bytes) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert add(vf, (addr, PRIMARY)) == Status.SUCCESS
    assert vf.snapshot() == before


def test_adding_twice_and_deleting_the_unknown_are_no_errors() -> None:
    vf = FakeVf().bring_up()
    assert add(vf, (MULTICAST, EXTRA), (MULTICAST, EXTRA)) == Status.SUCCESS
    assert add(vf, (MULTICAST, EXTRA)) == Status.SUCCESS
    assert delete(vf, OTHER_MAC, ZERO, BROADCAST) == Status.SUCCESS
    assert received(vf) == {MAC, MULTICAST}


def test_primary_address_becomes_the_own_one_and_survives_a_reset() -> None:
    vf = FakeVf().bring_up()
    add(vf, (OTHER_MAC, PRIMARY))
    assert vf.resources().default_mac_addr == OTHER_MAC
    vf.session.reset()
    assert vf.bring_up().resources().default_mac_addr == OTHER_MAC
    assert vf.session.vf.config.macs == {OTHER_MAC}


def test_linux_changes_its_address_by_adding_then_deleting() -> None:
    vf = FakeVf().bring_up()
    add(vf, (OTHER_MAC, PRIMARY))
    delete(vf, MAC)
    assert received(vf) == {OTHER_MAC}
    assert vf.resources().default_mac_addr == OTHER_MAC


def test_freebsd_changes_its_address_by_deleting_then_adding_until_a_reset() -> None:
    vf = FakeVf().bring_up()
    delete(vf, MAC)
    add(vf, (OTHER_MAC, LEGACY))
    assert vf.resources().default_mac_addr == OTHER_MAC
    vf.session.reset()
    assert vf.bring_up().resources().default_mac_addr == MAC


@pytest.mark.parametrize("kind", [LEGACY, EXTRA, 3])
def test_address_of_another_type_leaves_the_own_one(kind: int) -> None:
    vf = FakeVf().bring_up()
    add(vf, (OTHER_MAC, kind))
    assert vf.resources().default_mac_addr == MAC


def test_multicast_address_never_becomes_the_own_one() -> None:
    vf = FakeVf().bring_up()
    delete(vf, MAC)
    add(vf, (MULTICAST, PRIMARY))
    assert vf.resources().default_mac_addr == MAC


def test_linux_ifdown_deletes_all_and_ifup_adds_again() -> None:
    vf = FakeVf().bring_up()
    assert delete(vf, MAC) == Status.SUCCESS
    assert received(vf) == frozenset()
    assert vf.resources().default_mac_addr == MAC
    assert add(vf, (MAC, PRIMARY)) == Status.SUCCESS
    assert received(vf) == {MAC}


def test_deleted_own_address_is_received_again_after_a_reset() -> None:
    vf = FakeVf().bring_up()
    delete(vf, MAC)
    vf.session.reset()
    assert received(vf) == {MAC}


def test_locked_vf_may_use_no_other_unicast_address() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, mac_locked=True)).bring_up()
    before = vf.snapshot()
    assert add(vf, (MULTICAST, EXTRA), (OTHER_MAC, EXTRA)) == Status.ERR_ADMIN_QUEUE_ERROR
    assert vf.snapshot() == before


def test_locked_vf_keeps_its_address_and_its_groups() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, mac_locked=True)).bring_up()
    assert delete(vf, MAC) == Status.SUCCESS
    assert add(vf, (MAC, PRIMARY), (MULTICAST, EXTRA)) == Status.SUCCESS
    assert received(vf) == {MAC, MULTICAST}


def test_100_multicast_groups_fit() -> None:
    assert add(FakeVf().bring_up(), *groups(100)) == Status.SUCCESS


def test_256_addresses_fit_and_one_more_is_refused_whole() -> None:
    vf = FakeVf().bring_up()
    assert add(vf, *groups(255)) == Status.SUCCESS
    before = vf.snapshot()
    assert add(vf, (OTHER_MAC, PRIMARY)) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.trap(13)
def test_addresses_for_another_vsi_are_refused() -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert add(vf, (OTHER_MAC, EXTRA), vsi_id=2) == Status.ERR_PARAM
    assert delete(vf, MAC, vsi_id=0) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize(
    ("flags", "unicast", "multicast"),
    [(1, True, False), (2, False, True), (3, True, True), (0xFFFC, False, False)],
)
def test_promiscuous_flags_reach_the_data_path(flags: int, unicast: bool, multicast: bool) -> None:
    vf = FakeVf()
    vf.bring_up()
    promisc(vf, 3)
    promisc(vf, 0)
    assert promisc(vf, flags) == Status.SUCCESS
    assert vf.datapath.last("set_rx_filter") == RxFilter(frozenset({MAC}), unicast, multicast)


def test_promiscuous_mode_without_trust_succeeds_and_changes_nothing() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, trust=False)).bring_up()
    before = vf.snapshot()
    assert promisc(vf, 3) == Status.SUCCESS
    assert vf.snapshot() == before


def test_promiscuous_mode_for_another_vsi_is_refused() -> None:
    assert promisc(FakeVf().bring_up(), 3, vsi_id=2) == Status.ERR_PARAM


def test_vf_without_trust_gets_18_addresses() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, trust=False)).bring_up()
    assert add(vf, *groups(17)) == Status.SUCCESS
    before = vf.snapshot()
    assert add(vf, (OTHER_MAC, EXTRA)) == Status.ERR_PARAM
    assert vf.snapshot() == before
