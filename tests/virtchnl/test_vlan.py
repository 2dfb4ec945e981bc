"""VLAN_V2 in single-VLAN mode: capabilities, filters and pruning, stripping and insertion."""

from collections.abc import Set

import pytest

from emuiavf.emudev.info import VlanOffload
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from tests.fakes.vf import MAC, FakeVf

OFF, STRIP = VlanOffload(), VlanOffload(strip=True)
INSERT, BOTH = VlanOffload(insert=True), VlanOffload(strip=True, insert=True)
SETTING_OPS = (
    Op.ENABLE_VLAN_STRIPPING_V2,
    Op.DISABLE_VLAN_STRIPPING_V2,
    Op.ENABLE_VLAN_INSERTION_V2,
    Op.DISABLE_VLAN_INSERTION_V2,
)


def change(vf: FakeVf, op: Op, *ids: int, vsi_id: int = 1) -> Status:
    return vf.status(op, m.VlanFilterList(vsi_id), [m.VlanFilter(i, 0, 0x8100) for i in ids])


def add(vf: FakeVf, *ids: int) -> Status:
    return change(vf, Op.ADD_VLAN_V2, *ids)


def delete(vf: FakeVf, *ids: int) -> Status:
    return change(vf, Op.DEL_VLAN_V2, *ids)


def setting(vf: FakeVf, op: Op, outer: int = 0, inner: int = 1, vsi_id: int = 1) -> Status:
    return vf.status(op, m.VlanSetting(outer, inner, vsi_id))


def pruning(vf: FakeVf) -> Set[int] | None:
    """The VLANs in the filter that the data path has."""
    vlans: Set[int] | None = vf.datapath.last("set_rx_filter").vlans
    return vlans


def test_capabilities_are_those_of_single_vlan_mode_byte_for_byte() -> None:
    assert FakeVf().bring_up().send(Op.GET_OFFLOAD_VLAN_V2_CAPS).body == bytes.fromhex(
        "00000000 01000000 01000000 0010 000000000000 01010080 00000000 01010080 01000000 00 000000"
    )


def test_capabilities_of_a_vf_without_trust_name_8_filters() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, trust=False)).bring_up()
    body = vf.send(Op.GET_OFFLOAD_VLAN_V2_CAPS).body
    assert m.VlanCaps.decode(body).max_filters == 8


def test_first_filter_begins_pruning_and_priority_tags_still_pass() -> None:
    vf = FakeVf().bring_up()
    assert add(vf, 100, 4095) == Status.SUCCESS
    assert pruning(vf) == {0, 100, 4095}


def test_filters_add_up_and_the_last_deleted_ends_pruning() -> None:
    vf = FakeVf().bring_up()
    add(vf, 100)
    add(vf, 200)
    assert delete(vf, 100) == Status.SUCCESS
    assert pruning(vf) == {0, 200}
    assert delete(vf, 200) == Status.SUCCESS
    assert pruning(vf) is None


def test_vlan_0_is_accepted_and_means_nothing() -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert add(vf, 0) == Status.SUCCESS
    assert delete(vf, 0) == Status.SUCCESS
    assert vf.snapshot() == before


def test_adding_twice_and_deleting_the_unknown_are_no_errors() -> None:
    vf = FakeVf().bring_up()
    assert add(vf, 7, 7) == Status.SUCCESS
    assert add(vf, 7) == Status.SUCCESS
    assert delete(vf, 8) == Status.SUCCESS
    assert pruning(vf) == {0, 7}


@pytest.mark.parametrize("op", [Op.ADD_VLAN_V2, Op.DEL_VLAN_V2])
@pytest.mark.parametrize(
    "wrong",
    [
        m.VlanFilter(0, 0, 0),
        m.VlanFilter(5, 0, 0),
        m.VlanFilter(5, 0, 0x88A8),
        m.VlanFilter(5, 0xFFF, 0x8100),
        m.VlanFilter(0x1005, 0, 0x8100),
        m.VlanFilter(0xE005, 0, 0x8100),
        m.VlanFilter(5, 0, 0x8100, 6, 0, 0x8100),
        m.VlanFilter(5, 0, 0x8100, 6, 0, 0),
        m.VlanFilter(0, 0, 0, 6, 0, 0x8100),
        m.VlanFilter(5, 0, 0x8100, 0, 0, 0x88A8),
        m.VlanFilter(5, 0, 0x8100, 0, 1, 0),
    ],
    ids=str,
)
def test_filter_of_a_kind_not_offered_is_refused_whole(op: Op, wrong: m.VlanFilter) -> None:
    vf = FakeVf().bring_up()
    add(vf, 9)
    before = vf.snapshot()
    items = [m.VlanFilter(9, 0, 0x8100), m.VlanFilter(10, 0, 0x8100), wrong]
    assert vf.status(op, m.VlanFilterList(1), items) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize("op", [Op.ADD_VLAN_V2, Op.DEL_VLAN_V2])
def test_filters_for_another_vsi_are_refused(op: Op) -> None:
    assert change(FakeVf().bring_up(), op, 5, vsi_id=2) == Status.ERR_PARAM


def test_trusted_vf_can_filter_every_vlan() -> None:
    vf = FakeVf().bring_up()
    ids = list(range(1, 4096))
    for start in range(0, len(ids), 127):
        assert add(vf, *ids[start : start + 127]) == Status.SUCCESS
    assert pruning(vf) == set(range(4096))


def test_vf_without_trust_can_filter_8_vlans() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, trust=False)).bring_up()
    assert add(vf, *range(1, 9)) == Status.SUCCESS
    before = vf.snapshot()
    assert add(vf, 9) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_pruning_ends_with_a_reset() -> None:
    vf = FakeVf().bring_up()
    add(vf, 5)
    vf.session.reset()
    assert pruning(vf) is None


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ([Op.ENABLE_VLAN_STRIPPING_V2], [STRIP]),
        ([Op.ENABLE_VLAN_INSERTION_V2], [INSERT]),
        ([Op.ENABLE_VLAN_STRIPPING_V2, Op.ENABLE_VLAN_INSERTION_V2], [STRIP, BOTH]),
        ([Op.ENABLE_VLAN_STRIPPING_V2, Op.DISABLE_VLAN_STRIPPING_V2], [STRIP, OFF]),
        ([Op.ENABLE_VLAN_INSERTION_V2, Op.DISABLE_VLAN_INSERTION_V2], [INSERT, OFF]),
        ([Op.ENABLE_VLAN_STRIPPING_V2, Op.ENABLE_VLAN_STRIPPING_V2], [STRIP]),
        ([Op.DISABLE_VLAN_STRIPPING_V2, Op.DISABLE_VLAN_INSERTION_V2], []),
    ],
)
def test_settings_reach_the_data_path_once(ops: list[Op], expected: list[VlanOffload]) -> None:
    vf = FakeVf().bring_up()
    assert [setting(vf, op) for op in ops] == [Status.SUCCESS] * len(ops)
    assert vf.datapath.calls == [("set_vlan_offload", offload) for offload in expected]


@pytest.mark.parametrize("op", SETTING_OPS)
@pytest.mark.parametrize(
    ("outer", "inner", "vsi_id"),
    [
        (0, 0, 1),
        (1, 0, 1),
        (1, 1, 1),
        (0, 2, 1),
        (0, 3, 1),
        (0, 0x8000_0001, 1),
        (0, 0x101, 1),
        (0, 1, 2),
    ],
)
def test_setting_not_offered_is_refused(op: Op, outer: int, inner: int, vsi_id: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert setting(vf, op, outer, inner, vsi_id) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize("caps", [0, Cap.L2, Cap.L2 | Cap.VLAN_V2])
def test_disable_stripping_of_version_1_is_accepted_from_all(caps: int) -> None:
    assert FakeVf().bring_up(caps).status(Op.DISABLE_VLAN_STRIPPING) == Status.SUCCESS


def test_disable_stripping_of_version_1_stops_stripping() -> None:
    vf = FakeVf().bring_up()
    setting(vf, Op.ENABLE_VLAN_STRIPPING_V2)
    vf.send(Op.DISABLE_VLAN_STRIPPING)
    assert vf.datapath.last("set_vlan_offload") == OFF
