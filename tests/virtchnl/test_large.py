"""VFs with more than 16 queue pairs: chunks, queue by queue vectors, the table of 512 entries."""

from collections.abc import Sequence

import pytest

from emuiavf.emudev.info import VectorMap
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.session import Reply
from emuiavf.virtchnl.state import VfLimits
from tests.fakes.vf import ALL_CAPS, FakeVf, pair

TX, RX = 0, 1
PAIRS = 256
HIGHEST = 1 << 255
ALL = (1 << PAIRS) - 1


def large(*indexes: int, pairs: int = PAIRS) -> FakeVf:
    """A VF with that many pairs, of which these are configured."""
    vf = FakeVf(limits=VfLimits(pairs, 256, 65)).bring_up()
    vf.datapath.num_vectors = 65
    for at in range(0, len(indexes), 32):
        vf.configure(*indexes[at : at + 32])
    return vf


def chunks(vf: FakeVf, op: Op, *made: tuple[int, int, int], vport_id: int = 1) -> Status:
    return vf.status(op, m.QueueChunkList(vport_id), [m.QueueChunk(*one) for one in made])


def enable(vf: FakeVf, *made: tuple[int, int, int]) -> Status:
    return chunks(vf, Op.ENABLE_QUEUES_V2, *made)


def disable(vf: FakeVf, *made: tuple[int, int, int]) -> Status:
    return chunks(vf, Op.DISABLE_QUEUES_V2, *made)


def map_queues(vf: FakeVf, entries: Sequence[m.QueueVector], vport_id: int = 1) -> Status:
    return vf.status(Op.MAP_QUEUE_VECTOR, m.QueueVectorList(vport_id), entries)


# Chunks


def test_chunks_start_all_queues_with_one_message_as_dpdk_stops_them() -> None:
    vf = large(*range(PAIRS))
    assert enable(vf, (TX, 0, PAIRS), (RX, 0, PAIRS)) == Status.SUCCESS
    assert (vf.datapath.rx_enabled, vf.datapath.tx_enabled) == (ALL, ALL)
    assert disable(vf, (TX, 0, PAIRS), (RX, 0, PAIRS)) == Status.SUCCESS
    assert (vf.datapath.rx_enabled, vf.datapath.tx_enabled) == (0, 0)


def test_one_queue_is_started_and_stopped_without_the_others() -> None:
    vf = large(0, 254, 255)
    assert enable(vf, (RX, 255, 1)) == Status.SUCCESS
    assert enable(vf, (TX, 0, 1), (TX, 254, 2)) == Status.SUCCESS
    assert vf.datapath.calls == [
        ("enable_queues", HIGHEST, 0),
        ("enable_queues", 0, 1 | 3 << 254),
    ]
    vf.datapath.calls.clear()
    assert disable(vf, (TX, 254, 1)) == Status.SUCCESS
    assert vf.datapath.calls == [("disable_queues", 0, 1 << 254)]


def test_chunks_may_overlap_and_name_what_runs_already() -> None:
    vf = large(*range(32))
    assert enable(vf, (RX, 0, 20), (RX, 10, 22), (RX, 31, 1)) == Status.SUCCESS
    assert enable(vf, (RX, 0, 32)) == Status.SUCCESS
    assert [call[0] for call in vf.datapath.calls] == ["enable_queues"]
    assert vf.datapath.rx_enabled == 0xFFFF_FFFF


@pytest.mark.trap(2)
def test_a_link_event_follows_the_second_form_too() -> None:
    vf = large(100)
    posted = vf.post(Op.ENABLE_QUEUES_V2, m.QueueChunkList(1), [m.QueueChunk(RX, 100, 1)])
    assert [one.opcode for one in posted if isinstance(one, Reply)] == [107, Op.EVENT]


@pytest.mark.trap(20)
def test_disable_of_queues_never_configured_succeeds() -> None:
    vf = large()
    assert disable(vf, (TX, 0, PAIRS), (RX, 0, PAIRS)) == Status.SUCCESS
    assert vf.datapath.calls == []


def test_a_queue_that_was_stopped_starts_over_at_its_head() -> None:
    vf = large(200)
    enable(vf, (RX, 200, 1))
    disable(vf, (RX, 200, 1))
    vf.datapath.calls.clear()
    assert enable(vf, (RX, 200, 1)) == Status.SUCCESS
    assert [call[0] for call in vf.datapath.calls] == ["configure_rx", "enable_queues"]


@pytest.mark.parametrize("op", [Op.ENABLE_QUEUES_V2, Op.DISABLE_QUEUES_V2], ids=["on", "off"])
@pytest.mark.parametrize(
    "wrong",
    [
        (2, 0, 1),
        (-1, 0, 1),
        (1 << 30, 0, 1),
        (RX, 0, 0),
        (RX, 0, PAIRS + 1),
        (RX, PAIRS, 1),
        (TX, PAIRS - 1, 2),
        (TX, 0xFFFF, 0xFFFF),
        (TX, 0xFFFF, 1),
        (RX, 1, 0xFFFF),
    ],
    ids=str,
)
def test_a_wrong_chunk_refuses_the_message_whole(op: Op, wrong: tuple[int, int, int]) -> None:
    vf = large(*range(4))
    enable(vf, (RX, 0, 4), (TX, 0, 2))
    before = vf.snapshot()
    assert chunks(vf, op, (RX, 0, 2), (TX, 2, 2), wrong) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_queues_not_configured_are_not_enabled() -> None:
    vf = large(0, 1)
    before = vf.snapshot()
    assert enable(vf, (RX, 0, 3)) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_chunks_name_the_vsi() -> None:
    vf = large(0)
    assert chunks(vf, Op.ENABLE_QUEUES_V2, (RX, 0, 1), vport_id=2) == Status.ERR_PARAM


def test_chunks_end_with_the_pairs_that_the_vf_has() -> None:
    vf = large(*range(20), pairs=20)
    assert enable(vf, (RX, 0, 20)) == Status.SUCCESS
    assert enable(vf, (RX, 19, 2)) == Status.ERR_PARAM


# The first form, in a large VF


def test_bitmaps_go_on_to_name_the_first_16_queues() -> None:
    vf = large(*range(17))
    assert vf.status(Op.ENABLE_QUEUES, m.QueueSelect(1, 0xFFFF, 0x8000)) == Status.SUCCESS
    assert vf.status(Op.DISABLE_QUEUES, m.QueueSelect(1, 0xFFFF, 0x8000)) == Status.SUCCESS
    for bits in (1 << 16, 1 << 31):
        assert vf.status(Op.ENABLE_QUEUES, m.QueueSelect(1, bits, 0)) == Status.ERR_PARAM
        assert vf.status(Op.DISABLE_QUEUES, m.QueueSelect(1, 0, bits)) == Status.ERR_PARAM


def test_irq_map_goes_on_to_serve_the_first_16_queues() -> None:
    vf = large()
    entries = [m.VectorEntry(1, 64, 0x8001, 0x4000, 0, 1)]
    assert vf.status(Op.CONFIG_IRQ_MAP, m.IrqMap(), entries) == Status.SUCCESS
    assert vf.datapath.vectors == {64: VectorMap(64, 0x8001, 0x4000, 0, 1)}


# MAP_QUEUE_VECTOR


def test_every_queue_gets_its_vector() -> None:
    vf = large()
    entries = [
        m.QueueVector(queue, 1 + queue % 64, queue % 2, kind)
        for queue in range(PAIRS // 2)
        for kind in (RX, TX)
    ]
    assert map_queues(vf, entries[:128]) == Status.SUCCESS
    assert map_queues(vf, entries[128:]) == Status.SUCCESS
    assert len(vf.datapath.vectors) == 64
    for vector, served in vf.datapath.vectors.items():
        queues = 1 << vector - 1 | 1 << 63 + vector
        itr = (vector - 1) % 2
        assert served == VectorMap(vector, queues, queues, itr, itr)


def test_dpdk_maps_all_its_rx_queues_to_one_vector() -> None:
    vf = large()
    assert map_queues(vf, [m.QueueVector(q, 1, 0, RX) for q in range(128)]) == Status.SUCCESS
    assert map_queues(vf, [m.QueueVector(q, 1, 0, RX) for q in range(128, 256)]) == Status.SUCCESS
    assert vf.datapath.vectors == {1: VectorMap(1, ALL, 0, 0, 3)}


def test_a_queue_leaves_the_vector_that_it_had_and_others_stay() -> None:
    vf = large()
    map_queues(vf, [m.QueueVector(q, 1, 0, RX) for q in range(4)])
    vf.datapath.calls.clear()
    assert map_queues(vf, [m.QueueVector(2, 5, 1, RX)]) == Status.SUCCESS
    assert vf.datapath.calls == [
        ("map_vectors", (VectorMap(1, 0b1011, 0, 0, 3), VectorMap(5, 0b0100, 0, 1, 3)))
    ]


def test_of_two_vectors_for_one_queue_the_last_counts() -> None:
    vf = large()
    assert map_queues(vf, [m.QueueVector(9, 1, 0, TX), m.QueueVector(9, 2, 0, TX)]) == 0
    served = {v: one.tx_queues for v, one in vf.datapath.vectors.items() if one.tx_queues}
    assert served == {2: 1 << 9}


@pytest.mark.parametrize(
    "wrong",
    [
        m.QueueVector(PAIRS, 1, 0, RX),
        m.QueueVector(0xFFFF, 1, 0, RX),
        m.QueueVector(0, 65, 0, RX),
        m.QueueVector(0, 0xFFFF, 0, RX),
        m.QueueVector(0, 1, 4, RX),
        m.QueueVector(0, 1, -1, RX),
        m.QueueVector(0, 1, 0, 2),
        m.QueueVector(0, 1, 0, -1),
        m.QueueVector(0, 1, 0, 0x7FFF_FFFF),
    ],
    ids=str,
)
def test_a_wrong_entry_refuses_the_message_whole(wrong: m.QueueVector) -> None:
    vf = large()
    before = vf.snapshot()
    assert map_queues(vf, [m.QueueVector(0, 1, 0, RX), wrong]) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_map_names_the_vsi() -> None:
    assert map_queues(large(), [m.QueueVector(0, 1, 0, RX)], vport_id=0) == Status.ERR_PARAM


# RSS


@pytest.mark.parametrize(("pairs", "width"), [(4, 4), (16, 4), (17, 6), (64, 6), (65, 7), (256, 8)])
def test_max_rss_qregion_is_that_of_ice_or_all_queues(pairs: int, width: int) -> None:
    body = large(pairs=pairs).send(Op.GET_MAX_RSS_QREGION).body
    assert body == m.MaxRssQregion(1, width).encode()


def test_table_of_512_entries_reaches_the_data_path() -> None:
    vf = large()
    table = bytes(i % PAIRS for i in range(512))
    assert vf.status(Op.CONFIG_RSS_LUT, m.RssLut(1), table) == Status.SUCCESS
    assert vf.datapath.last("set_rss").lut == table


@pytest.mark.parametrize(
    ("entries", "taken"), [(64, True), (63, False), (128, False), (511, False)]
)
def test_a_table_of_another_size_is_refused_but_for_vpps(entries: int, taken: bool) -> None:
    status = large().status(Op.CONFIG_RSS_LUT, m.RssLut(1), bytes(entries))
    assert status == (Status.SUCCESS if taken else Status.ERR_PARAM)


def test_a_rule_may_name_the_highest_queue() -> None:
    headers = [m.ProtoHdr(4, 0, bytes(64)), m.ProtoHdr(7, 2, b"\0\0\0\x50" + bytes(60))]
    vf = large()
    for queue, status in ((255, 0), (256, -5)):
        rule = m.FdirAdd.of(headers, [m.FilterAction(3, queue)], vsi_id=1)
        assert vf.status(Op.ADD_FDIR_FILTER, rule) == status


# Flags that are echoed


def test_rx_polling_and_wb_on_itr_are_granted_alone_and_change_no_message() -> None:
    for flags in (Cap.RX_POLLING, Cap.WB_ON_ITR, Cap.RX_POLLING | Cap.WB_ON_ITR):
        vf = FakeVf().bring_up(Cap.L2 | flags)
        assert vf.resources(Cap.L2 | flags).vf_cap_flags == Cap.L2 | flags
        assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), [pair(0)]) == Status.SUCCESS
        assert vf.status(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1)) == Status.SUCCESS
    assert not FakeVf().bring_up(ALL_CAPS & ~flags).resources(Cap.L2).vf_cap_flags & flags
