"""VLAN_V2 in double-VLAN mode and VLAN of version 1: filters, pruning, stripping, insertion."""

from collections.abc import Set

import pytest

from emuiavf.emudev.info import VlanOffload, vlan_tag
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from tests.fakes.vf import ALL_CAPS, MAC, FakeVf, pair

OFF, STRIP = VlanOffload(), VlanOffload(strip_outer=0x8100)
INSERT = VlanOffload(insert_outer=0x8100)
BOTH = VlanOffload(strip_outer=0x8100, insert_outer=0x8100)
VERSION_1 = Cap.L2 | Cap.VLAN | Cap.CRC
TPIDS = {0x8100: 1, 0x88A8: 2, 0x9100: 4}
SETTING_OPS = (
    Op.ENABLE_VLAN_STRIPPING_V2,
    Op.DISABLE_VLAN_STRIPPING_V2,
    Op.ENABLE_VLAN_INSERTION_V2,
    Op.DISABLE_VLAN_INSERTION_V2,
)


def outer(vlan_id: int, tpid: int = 0x8100, mask: int = 0) -> m.VlanFilter:
    return m.VlanFilter(0, 0, 0, vlan_id, mask, tpid)


def change(vf: FakeVf, op: Op, *ids: int, vsi_id: int = 1, tpid: int = 0x8100) -> Status:
    return vf.status(op, m.VlanFilterList(vsi_id), [outer(i, tpid) for i in ids])


def add(vf: FakeVf, *ids: int, tpid: int = 0x8100) -> Status:
    return change(vf, Op.ADD_VLAN_V2, *ids, tpid=tpid)


def delete(vf: FakeVf, *ids: int, tpid: int = 0x8100) -> Status:
    return change(vf, Op.DEL_VLAN_V2, *ids, tpid=tpid)


def version_1(vf: FakeVf, op: Op, *ids: int, vsi_id: int = 1) -> Status:
    return vf.status(op, m.VlanIdList(vsi_id), [m.VlanId(i) for i in ids])


def setting(vf: FakeVf, op: Op, outer: int = 1, inner: int = 0, vsi_id: int = 1) -> Status:
    return vf.status(op, m.VlanSetting(outer, inner, vsi_id))


def pruning(vf: FakeVf) -> Set[int] | None:
    """The VLANs in the filter that the data path has."""
    vlans: Set[int] | None = vf.datapath.last("set_rx_filter").vlans
    return vlans


def test_capabilities_are_those_of_double_vlan_mode_byte_for_byte() -> None:
    assert FakeVf().bring_up().send(Op.GET_OFFLOAD_VLAN_V2_CAPS).body == bytes.fromhex(
        "07000020 00000000 07000000 0010 0000070400c0 01010080 070200c0 01010080 01000000 00 000000"
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
        outer(0, 0),
        outer(5, 0),
        outer(5, 0x0800),
        outer(5, 0x9200),
        outer(5, mask=0xFFF),
        outer(0x1005),
        outer(0xE005),
        m.VlanFilter(5, 0, 0x8100),
        m.VlanFilter(5, 0, 0x8100, 6, 0, 0x88A8),
        m.VlanFilter(5, 0, 0, 6, 0, 0x8100),
        m.VlanFilter(0, 0, 0x8100, 6, 0, 0x8100),
        m.VlanFilter(0, 1, 0, 6, 0, 0x8100),
    ],
    ids=str,
)
def test_filter_of_a_kind_not_offered_is_refused_whole(op: Op, wrong: m.VlanFilter) -> None:
    vf = FakeVf().bring_up()
    add(vf, 9)
    before = vf.snapshot()
    items = [outer(9), outer(10), wrong]
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
        (0, 2, 1),
        (0, 3, 1),
        (0, 4, 1),
        (0, 0x8000_0001, 1),
        (0, 0x101, 1),
        (3, 0, 1),
        (6, 0, 1),
        (8, 0, 1),
        (0x8000_0001, 0, 1),
        (0x401, 0, 1),
        (1, 2, 1),
        (3, 1, 1),
        (1, 0, 2),
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


def test_same_id_under_three_tpids_is_three_vlans() -> None:
    vf = FakeVf().bring_up()
    for tpid in TPIDS:
        assert add(vf, 5, tpid=tpid) == Status.SUCCESS
    assert pruning(vf) == {0, 5, vlan_tag(5, 0x88A8), vlan_tag(5, 0x9100)}
    assert delete(vf, 5, tpid=0x88A8) == Status.SUCCESS
    assert pruning(vf) == {0, 5, vlan_tag(5, 0x9100)}


def test_priority_tag_of_any_tpid_is_no_vlan() -> None:
    vf = FakeVf().bring_up()
    assert [add(vf, 0, tpid=tpid) for tpid in TPIDS] == [Status.SUCCESS] * 3
    assert vf.session.vf.config.vlans == frozenset()


@pytest.mark.parametrize("tpid", TPIDS)
def test_outer_setting_takes_its_tpid(tpid: int) -> None:
    vf = FakeVf().bring_up()
    assert setting(vf, Op.ENABLE_VLAN_STRIPPING_V2, TPIDS[tpid]) == Status.SUCCESS
    assert setting(vf, Op.ENABLE_VLAN_INSERTION_V2, TPIDS[tpid]) == Status.SUCCESS
    wanted = VlanOffload(strip_outer=tpid, insert_outer=tpid)
    assert vf.datapath.last("set_vlan_offload") == wanted


def test_outer_tpid_replaces_the_one_before() -> None:
    vf = FakeVf().bring_up()
    for bit in (1, 2, 4):
        assert setting(vf, Op.ENABLE_VLAN_STRIPPING_V2, bit) == Status.SUCCESS
    assert vf.datapath.last("set_vlan_offload") == VlanOffload(strip_outer=0x9100)


def test_both_tags_go_in_one_message_and_off_apart() -> None:
    vf = FakeVf().bring_up()
    for op in SETTING_OPS[::2]:
        assert setting(vf, op, 2, 1) == Status.SUCCESS
    both = VlanOffload(strip=True, insert=True, strip_outer=0x88A8, insert_outer=0x88A8)
    assert vf.datapath.last("set_vlan_offload") == both
    for op in SETTING_OPS[1::2]:
        assert setting(vf, op, 0, 1) == Status.SUCCESS
    one = VlanOffload(strip_outer=0x88A8, insert_outer=0x88A8)
    assert vf.datapath.last("set_vlan_offload") == one
    for op in SETTING_OPS[1::2]:
        assert setting(vf, op, 1, 1) == Status.SUCCESS
    assert vf.datapath.last("set_vlan_offload") == OFF


# Version 1


def test_version_1_has_its_stripping_on_from_the_start() -> None:
    vf = FakeVf()
    vf.send(Op.VERSION, m.Version(1, 1))
    vf.send(Op.GET_VF_RESOURCES, m.CapRequest(VERSION_1))
    assert vf.datapath.last("set_vlan_offload") == VlanOffload(strip=True, insert=True)


def test_version_1_toggles_stripping() -> None:
    vf = FakeVf().bring_up(VERSION_1)
    assert vf.status(Op.DISABLE_VLAN_STRIPPING) == Status.SUCCESS
    assert vf.datapath.last("set_vlan_offload") == VlanOffload(insert=True)
    assert vf.status(Op.ENABLE_VLAN_STRIPPING) == Status.SUCCESS
    assert vf.datapath.last("set_vlan_offload") == VlanOffload(strip=True, insert=True)


def test_version_1_ends_with_its_capability() -> None:
    vf = FakeVf().bring_up(VERSION_1)
    vf.resources(ALL_CAPS)
    assert vf.datapath.last("set_vlan_offload") == OFF


def test_version_1_filters_are_of_tpid_0x8100() -> None:
    vf = FakeVf().bring_up(VERSION_1)
    assert version_1(vf, Op.ADD_VLAN, 0, 5, 6) == Status.SUCCESS
    assert pruning(vf) == {0, 5, 6}
    assert version_1(vf, Op.DEL_VLAN, 5, 7) == Status.SUCCESS
    assert pruning(vf) == {0, 6}
    assert version_1(vf, Op.DEL_VLAN, 6) == Status.SUCCESS
    assert pruning(vf) is None


@pytest.mark.parametrize("op", [Op.ADD_VLAN, Op.DEL_VLAN])
@pytest.mark.parametrize(("ids", "vsi_id"), [((5, 4096), 1), ((0xFFFF,), 1), ((5,), 2)])
def test_version_1_list_that_is_wrong_is_refused_whole(
    op: Op, ids: tuple[int, ...], vsi_id: int
) -> None:
    vf = FakeVf().bring_up(VERSION_1)
    version_1(vf, Op.ADD_VLAN, 5)
    before = vf.snapshot()
    assert version_1(vf, op, *ids, vsi_id=vsi_id) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_version_1_vf_without_trust_can_filter_8_vlans() -> None:
    vf = FakeVf(VfPolicy(mac=MAC, trust=False)).bring_up(VERSION_1)
    assert version_1(vf, Op.ADD_VLAN, *range(9)) == Status.SUCCESS
    assert version_1(vf, Op.ADD_VLAN, 9) == Status.ERR_PARAM


# Queues that keep the CRC


def keep_crc(vf: FakeVf, flag: int = 1) -> Status:
    items = [pair(0), pair(1, rx_crc_disable=flag)]
    return vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), items)


@pytest.mark.parametrize("flag", [1, 0xFF])
def test_queue_keeps_the_crc_when_asked(flag: int) -> None:
    vf = FakeVf().bring_up()
    assert keep_crc(vf, flag) == Status.SUCCESS
    assert [vf.datapath.rx[i].keep_crc for i in (0, 1)] == [False, True]


def test_crc_needs_its_capability() -> None:
    vf = FakeVf().bring_up(ALL_CAPS & ~Cap.CRC)
    before = vf.snapshot()
    assert keep_crc(vf) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize(("outer_bit", "inner_bit"), [(1, 0), (4, 0), (0, 1)])
@pytest.mark.trap(39)
def test_crc_and_stripping_refuse_each_other(outer_bit: int, inner_bit: int) -> None:
    vf = FakeVf().bring_up()
    assert setting(vf, Op.ENABLE_VLAN_STRIPPING_V2, outer_bit, inner_bit) == Status.SUCCESS
    before = vf.snapshot()
    assert keep_crc(vf) == Status.ERR_PARAM
    assert vf.snapshot() == before
    setting(vf, Op.DISABLE_VLAN_STRIPPING_V2, outer_bit, inner_bit)
    assert keep_crc(vf) == Status.SUCCESS
    before = vf.snapshot()
    refused = setting(vf, Op.ENABLE_VLAN_STRIPPING_V2, outer_bit, inner_bit)
    assert refused == Status.NOT_SUPPORTED
    assert vf.snapshot() == before
    assert setting(vf, Op.ENABLE_VLAN_INSERTION_V2, outer_bit, inner_bit) == Status.SUCCESS
    assert setting(vf, Op.DISABLE_VLAN_STRIPPING_V2, outer_bit, inner_bit) == Status.SUCCESS
    assert keep_crc(vf, 0) == Status.SUCCESS
    assert setting(vf, Op.ENABLE_VLAN_STRIPPING_V2, outer_bit, inner_bit) == Status.SUCCESS


def test_version_1_keeps_the_crc_only_without_stripping() -> None:
    vf = FakeVf().bring_up(VERSION_1)
    assert keep_crc(vf) == Status.ERR_PARAM
    vf.send(Op.DISABLE_VLAN_STRIPPING)
    assert keep_crc(vf) == Status.SUCCESS
    assert vf.status(Op.ENABLE_VLAN_STRIPPING) == Status.NOT_SUPPORTED
