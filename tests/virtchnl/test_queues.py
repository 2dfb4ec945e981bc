"""Rings and vectors: what is refused, what reaches the data path, and in which order."""

from typing import Any

import pytest

from emuiavf._rxdid import Rxdid
from emuiavf.emudev.info import RxQueueConfig, TxQueueConfig, VectorMap
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.state import VfLimits
from tests.fakes.vf import ALL_CAPS, FakeVf, pair

TX0 = TxQueueConfig(0, 512, 0x10_0000)
RX0 = RxQueueConfig(0, 512, 0x80_0000, 2048, 1522, writeback=1, keep_crc=False)
TX1 = TxQueueConfig(1, 512, 0x11_0000)


def configure(vf: FakeVf, *pairs: m.QueuePair, vsi_id: int = 1) -> Status:
    return vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(vsi_id), pairs)


def enable(vf: FakeVf, rx: int, tx: int) -> Status:
    return vf.status(Op.ENABLE_QUEUES, m.QueueSelect(1, rx, tx))


def disable(vf: FakeVf, rx: int, tx: int) -> Status:
    return vf.status(Op.DISABLE_QUEUES, m.QueueSelect(1, rx, tx))


def map_vectors(vf: FakeVf, *entries: m.VectorEntry) -> Status:
    return vf.status(Op.CONFIG_IRQ_MAP, m.IrqMap(), entries)


def running(vf: FakeVf, *indexes: int) -> FakeVf:
    """These pairs configured and enabled; what the data path heard is forgotten."""
    vf.bring_up().configure(*indexes)
    bits = sum(1 << index for index in indexes)
    assert enable(vf, bits, bits) == Status.SUCCESS
    vf.datapath.calls.clear()
    return vf


# CONFIG_VSI_QUEUES


def test_config_hands_both_rings_to_the_data_path() -> None:
    vf = FakeVf().bring_up()
    assert configure(vf, pair(0)) == Status.SUCCESS
    assert vf.datapath.calls == [("configure_tx", TX0), ("configure_rx", RX0)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tx_vsi_id": 2},
        {"rx_vsi_id": 0},
        {"tx_queue_id": 4, "rx_queue_id": 4},
        {"tx_queue_id": 0xFFFF, "rx_queue_id": 0xFFFF},
        {"tx_queue_id": 2},
        {"rx_queue_id": 2},
        {"tx_ring_len": 31},
        {"tx_ring_len": 48},
        {"tx_ring_len": 8192},
        {"rx_ring_len": 16},
        {"rx_ring_len": 8161},
        {"rx_ring_len": 0x1_0200},
        {"rx_ring_len": 0xFFFF_FFE0},
        {"tx_headwb_enabled": 1},
        {"rx_databuffer_size": 127},
        {"rx_databuffer_size": 16257},
        {"rx_databuffer_size": 0xFFFF_FFFF},
        {"rx_max_pkt_size": 63},
        {"rx_max_pkt_size": 0},
        {"rx_max_pkt_size": 9729},
    ],
    ids=str,
)
def test_config_with_a_wrong_field_is_refused_whole(wrong: dict[str, Any]) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert configure(vf, pair(0), pair(1, **wrong)) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize(
    "good",
    [
        {"tx_ring_len": 32, "rx_ring_len": 32},
        {"tx_ring_len": 8160, "rx_ring_len": 8160},
        {"tx_ring_len": 96},
        {"rx_databuffer_size": 128},
        {"rx_databuffer_size": 16256},
        {"rx_max_pkt_size": 64},
        {"rx_max_pkt_size": 9728},
        {"rx_rxdid": 2},
        {"rx_rxdid": 22},
        {"rx_hdr_size": 64, "rx_splithdr_enabled": 1, "rx_split_pos": -1},
        {"tx_dma_headwb_addr": 0x1234},
        {"tx_dma_ring_addr": 0xFFFF_FFFF_FFFF_FF80},
    ],
    ids=str,
)
def test_config_at_the_edge_is_accepted(good: dict[str, Any]) -> None:
    assert configure(FakeVf().bring_up(), pair(0, **good)) == Status.SUCCESS


@pytest.mark.parametrize("ring_len", range(64, 8161, 32))
def test_config_accepts_every_ring_length_of_ice(ring_len: int) -> None:
    vf = FakeVf().bring_up()
    assert configure(vf, pair(0, tx_ring_len=ring_len, rx_ring_len=ring_len)) == Status.SUCCESS


@pytest.mark.parametrize(
    ("sent", "used"), [(0, 2048), (2047, 1920), (2048, 2048), (1500, 1408), (129, 128)]
)
def test_config_databuffer_size_is_used_in_units_of_128(sent: int, used: int) -> None:
    vf = FakeVf().bring_up()
    configure(vf, pair(0, rx_databuffer_size=sent))
    assert vf.datapath.last("configure_rx").databuffer_size == used


def test_config_max_frame_of_the_device_limits_max_pkt_size() -> None:
    vf = FakeVf(limits=VfLimits(4, 4, 17, max_frame=2000)).bring_up()
    assert configure(vf, pair(0, rx_max_pkt_size=2001)) == Status.ERR_PARAM


@pytest.mark.parametrize("rxdid", [0, 1, 16, 22, 255])
def test_config_rxdid_counts_for_nothing_without_flexible_descriptors(rxdid: int) -> None:
    vf = FakeVf().bring_up(ALL_CAPS & ~Cap.RX_FLEX_DESC)
    assert configure(vf, pair(0, rx_rxdid=rxdid)) == Status.SUCCESS
    assert vf.datapath.last("configure_rx").writeback == 1


@pytest.mark.parametrize("rxdid", Rxdid)
def test_config_rxdid_that_is_supported_is_used(rxdid: int) -> None:
    vf = FakeVf().bring_up()
    assert configure(vf, pair(0, rx_rxdid=rxdid)) == Status.SUCCESS
    assert vf.datapath.last("configure_rx").writeback == rxdid


@pytest.mark.parametrize("rxdid", sorted(set(range(256)) - {1, 2, *range(16, 23), 25}))
def test_config_rxdid_that_is_not_supported_is_refused(rxdid: int) -> None:
    vf = FakeVf().bring_up()
    assert configure(vf, pair(0, rx_rxdid=rxdid)) == Status.ERR_PARAM
    assert vf.datapath.calls == []


def test_supported_rxdids_are_told_as_one_bitmap() -> None:
    assert FakeVf().bring_up().send(Op.GET_SUPPORTED_RXDIDS).body == bytes.fromhex(
        "06007f0200000000"
    )


@pytest.mark.trap(40)
def test_half_without_ring_is_not_validated_and_not_configured() -> None:
    vf = FakeVf().bring_up()
    unused = pair(1, rx_ring_len=0, rx_max_pkt_size=0, rx_databuffer_size=1, rx_crc_disable=1)
    assert configure(vf, unused, pair(2, tx_ring_len=0, tx_headwb_enabled=1)) == Status.SUCCESS
    assert vf.datapath.names() == ["configure_tx", "configure_rx"]
    assert vf.datapath.calls[0] == ("configure_tx", TX1)
    assert vf.datapath.last("configure_rx").index == 2


def test_config_with_a_foreign_vsi_in_the_header_is_refused() -> None:
    assert configure(FakeVf().bring_up(), pair(0), vsi_id=2) == Status.ERR_PARAM


def test_config_naming_a_pair_twice_is_refused() -> None:
    vf = FakeVf().bring_up()
    assert configure(vf, pair(0), pair(0)) == Status.ERR_PARAM


def test_config_in_several_messages_adds_up() -> None:
    vf = FakeVf().bring_up()
    assert configure(vf, pair(0), pair(1)) == Status.SUCCESS
    assert configure(vf, pair(2), pair(3)) == Status.SUCCESS
    assert enable(vf, 0xF, 0xF) == Status.SUCCESS


def test_config_of_a_running_queue_stops_it_first_and_leaves_the_others() -> None:
    vf = running(FakeVf(), 0, 1)
    assert configure(vf, pair(1)) == Status.SUCCESS
    assert vf.datapath.names() == ["disable_queues", "configure_tx", "configure_rx"]
    assert vf.datapath.calls[0] == ("disable_queues", 2, 2)
    assert (vf.datapath.rx_enabled, vf.datapath.tx_enabled) == (1, 1)


def test_config_with_ring_length_0_leaves_a_running_queue_alone() -> None:
    vf = running(FakeVf(), 0)
    assert configure(vf, pair(0, tx_ring_len=0, rx_ring_len=0)) == Status.SUCCESS
    assert vf.datapath.calls == []


# ENABLE_QUEUES and DISABLE_QUEUES


def test_enable_starts_what_is_named() -> None:
    vf = FakeVf().bring_up().configure(0, 1)
    assert enable(vf, 3, 1) == Status.SUCCESS
    assert vf.datapath.calls == [("enable_queues", 3, 1)]


def test_enable_one_by_one_as_dpdk_does() -> None:
    vf = FakeVf().bring_up().configure(0, 1)
    statuses = [enable(vf, 0, 1), enable(vf, 0, 2), enable(vf, 1, 0), enable(vf, 2, 0)]
    assert statuses == [Status.SUCCESS] * 4
    assert vf.datapath.calls == [
        ("enable_queues", 0, 1),
        ("enable_queues", 0, 2),
        ("enable_queues", 1, 0),
        ("enable_queues", 2, 0),
    ]


def test_enable_skips_what_runs() -> None:
    vf = running(FakeVf(), 0)
    assert enable(vf, 1, 1) == Status.SUCCESS
    assert vf.datapath.calls == []


@pytest.mark.parametrize("op", [Op.ENABLE_QUEUES, Op.DISABLE_QUEUES])
@pytest.mark.parametrize(
    "select",
    [
        m.QueueSelect(1, 0, 0),
        m.QueueSelect(2, 1, 1),
        m.QueueSelect(1, 0x10, 0),
        m.QueueSelect(1, 1, 0x10),
        m.QueueSelect(1, 0x8000_0000, 1),
        m.QueueSelect(1, 1, 0xFFFF_FFFF),
    ],
    ids=str,
)
def test_selection_that_names_no_queue_of_the_vf_is_refused(op: Op, select: m.QueueSelect) -> None:
    vf = running(FakeVf(), 0, 1, 2, 3)
    before = vf.snapshot()
    assert vf.status(op, select) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize(("rx", "tx"), [(2, 0), (0, 2), (3, 3)])
def test_enable_of_a_queue_never_configured_is_refused_whole(rx: int, tx: int) -> None:
    vf = FakeVf().bring_up().configure(0)
    before = vf.snapshot()
    assert enable(vf, rx, tx) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.trap(20)
def test_disable_of_queues_never_configured_succeeds() -> None:
    vf = FakeVf().bring_up()
    assert disable(vf, 0xF, 0xF) == Status.SUCCESS
    assert vf.datapath.calls == []


@pytest.mark.trap(20)
def test_data_path_has_stopped_when_disable_is_answered() -> None:
    vf = running(FakeVf(), 0, 1)
    assert disable(vf, 0xF, 0x2) == Status.SUCCESS
    assert vf.datapath.calls == [("disable_queues", 3, 2)]


def test_queue_disabled_and_enabled_starts_over_at_its_head() -> None:
    vf = running(FakeVf(), 0, 1)
    disable(vf, 1, 1)
    vf.datapath.calls.clear()
    assert enable(vf, 3, 3) == Status.SUCCESS
    assert vf.datapath.calls == [
        ("configure_tx", TX0),
        ("configure_rx", RX0),
        ("enable_queues", 1, 1),
    ]


def test_queue_configured_after_disable_is_not_configured_again_by_enable() -> None:
    vf = running(FakeVf(), 0)
    disable(vf, 1, 1)
    vf.configure(0)
    assert enable(vf, 1, 1) == Status.SUCCESS
    assert vf.datapath.calls == [("enable_queues", 1, 1)]


# CONFIG_IRQ_MAP


def test_irq_map_hands_every_entry_to_the_data_path() -> None:
    vf = FakeVf().bring_up()
    assert (
        map_vectors(vf, m.VectorEntry(1, 1, 1, 2, 0, 1), m.VectorEntry(1, 16, 8, 8, 2, 3))
        == Status.SUCCESS
    )
    assert vf.datapath.calls == [
        ("map_vectors", (VectorMap(1, 1, 2, 0, 1), VectorMap(16, 8, 8, 2, 3)))
    ]


@pytest.mark.parametrize("maps", [0, 0xF])
@pytest.mark.trap(34)
def test_vector_0_is_accepted_with_and_without_queues(maps: int) -> None:
    assert map_vectors(FakeVf().bring_up(), m.VectorEntry(1, 0, maps, maps, 0, 0)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        m.VectorEntry(2, 1, 1, 1, 0, 1),
        m.VectorEntry(1, 17, 1, 1, 0, 1),
        m.VectorEntry(1, 0xFFFF, 0, 0, 0, 0),
        m.VectorEntry(1, 1, 0x10, 0, 0, 1),
        m.VectorEntry(1, 1, 0, 0x8000, 0, 1),
        m.VectorEntry(1, 1, 1, 1, 4, 1),
        m.VectorEntry(1, 1, 1, 1, 0, 0xFFFF),
    ],
    ids=str,
)
def test_irq_map_with_a_wrong_entry_is_refused_whole(wrong: m.VectorEntry) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert map_vectors(vf, m.VectorEntry(1, 2, 1, 1, 0, 1), wrong) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_irq_map_with_more_entries_than_vectors_is_refused() -> None:
    vf = FakeVf().bring_up()
    assert map_vectors(vf, *[m.VectorEntry(1, 0, 0, 0, 0, 0)] * 18) == Status.ERR_PARAM


def test_irq_map_as_long_as_the_msix_table_is_accepted() -> None:
    vf = FakeVf().bring_up()
    entries = [m.VectorEntry(1, vector, 0, 0, 0, 0) for vector in range(17)]
    assert map_vectors(vf, *entries) == Status.SUCCESS


def test_irq_map_replaces_listed_vectors_and_keeps_the_others() -> None:
    vf = FakeVf().bring_up()
    map_vectors(vf, m.VectorEntry(1, 1, 1, 1, 0, 1), m.VectorEntry(1, 2, 2, 2, 0, 1))
    map_vectors(vf, m.VectorEntry(1, 2, 0, 0, 0, 0))
    assert vf.datapath.vectors == {1: VectorMap(1, 1, 1, 0, 1), 2: VectorMap(2, 0, 0, 0, 0)}


def test_irq_map_takes_a_queue_away_from_the_vector_it_had() -> None:
    vf = FakeVf().bring_up()
    map_vectors(vf, m.VectorEntry(1, 1, 3, 3, 0, 1))
    map_vectors(vf, m.VectorEntry(1, 2, 2, 0, 0, 1))
    assert vf.datapath.vectors == {1: VectorMap(1, 1, 3, 0, 1), 2: VectorMap(2, 2, 0, 0, 1)}


def test_irq_map_naming_a_queue_twice_gives_it_to_the_last() -> None:
    vf = FakeVf().bring_up()
    map_vectors(vf, m.VectorEntry(1, 1, 1, 1, 0, 1), m.VectorEntry(1, 2, 1, 0, 0, 1))
    assert vf.datapath.vectors == {1: VectorMap(1, 0, 1, 0, 1), 2: VectorMap(2, 1, 0, 0, 1)}
