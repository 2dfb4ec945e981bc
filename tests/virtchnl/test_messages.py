"""Layouts and length rules: every structure's bytes, every length of every request."""

from collections.abc import Sequence

import pytest

from emuiavf.layout import Wire
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import MAX_MESSAGE, Op, Status
from emuiavf.virtchnl.session import Reply
from tests.fakes.vf import FakeVf, caps_for, pair, valid_requests

# Bytes of the request in `valid_requests`: without and with the padding that drivers add.
LENGTHS = {
    Op.VERSION: (8, 8),
    Op.RESET_VF: (0, 0),
    Op.GET_VF_RESOURCES: (4, 4),
    Op.CONFIG_VSI_QUEUES: (72, 136),
    Op.CONFIG_IRQ_MAP: (14, 26),
    Op.ENABLE_QUEUES: (12, 12),
    Op.DISABLE_QUEUES: (12, 12),
    Op.ADD_ETH_ADDR: (12, 20),
    Op.DEL_ETH_ADDR: (12, 20),
    Op.CONFIG_PROMISCUOUS_MODE: (4, 4),
    Op.GET_STATS: (12, 12),
    Op.CONFIG_RSS_HFUNC: (8, 8),
    Op.CONFIG_RSS_KEY: (56, 57),
    Op.CONFIG_RSS_LUT: (68, 69),
    Op.GET_RSS_HENA_CAPS: (0, 0),
    Op.SET_RSS_HENA: (8, 8),
    Op.ADD_RSS_CFG: (2444, 2444),
    Op.DEL_RSS_CFG: (2444, 2444),
    Op.ADD_FDIR_FILTER: (2616, 2616),
    Op.DEL_FDIR_FILTER: (12, 12),
    Op.ADD_VLAN: (6, 8),
    Op.DEL_VLAN: (6, 8),
    Op.ENABLE_VLAN_STRIPPING: (0, 0),
    Op.DISABLE_VLAN_STRIPPING: (0, 0),
    Op.REQUEST_QUEUES: (2, 2),
    Op.GET_SUPPORTED_RXDIDS: (0, 0),
    Op.PTP_GET_CAPS: (48, 48),
    Op.PTP_GET_TIME: (16, 16),
    Op.GET_OFFLOAD_VLAN_V2_CAPS: (0, 0),
    Op.ADD_VLAN_V2: (40, 40),
    Op.DEL_VLAN_V2: (40, 40),
    Op.ENABLE_VLAN_STRIPPING_V2: (16, 16),
    Op.DISABLE_VLAN_STRIPPING_V2: (16, 16),
    Op.ENABLE_VLAN_INSERTION_V2: (16, 16),
    Op.DISABLE_VLAN_INSERTION_V2: (16, 16),
    Op.GET_QOS_CAPS: (0, 0),
    Op.CONFIG_QUEUE_TC_MAP: (12, 12),
    Op.CONFIG_QUEUE_BW: (16, 16),
    Op.CONFIG_QUANTA: (12, 12),
    Op.GET_MAX_RSS_QREGION: (0, 0),
    Op.ENABLE_QUEUES_V2: (24, 24),
    Op.DISABLE_QUEUES_V2: (24, 24),
    Op.MAP_QUEUE_VECTOR: (40, 40),
}
LISTS: dict[Op, m.Tail] = {op: made.tail for op, made in m.LAYOUTS.items() if made.tail}
MAX_COUNTS = {
    Op.CONFIG_VSI_QUEUES: 62,
    Op.CONFIG_IRQ_MAP: 340,
    Op.ADD_ETH_ADDR: 510,
    Op.DEL_ETH_ADDR: 510,
    Op.CONFIG_RSS_KEY: 4091,
    Op.CONFIG_RSS_LUT: 4091,
    Op.ADD_VLAN: 2045,
    Op.DEL_VLAN: 2045,
    Op.ADD_VLAN_V2: 127,
    Op.DEL_VLAN_V2: 127,
    Op.CONFIG_QUEUE_TC_MAP: 1022,
    Op.CONFIG_QUEUE_BW: 341,
    Op.ENABLE_QUEUES_V2: 511,
    Op.DISABLE_QUEUES_V2: 511,
    Op.MAP_QUEUE_VECTOR: 255,
}
# Where a list's count does not stand behind a vsi_id.
COUNT_AT = {Op.CONFIG_IRQ_MAP: 0, Op.ENABLE_QUEUES_V2: 4, Op.DISABLE_QUEUES_V2: 4}
# A 1.0 VF sends no capabilities, so this request may be empty as far as its layout goes.
TOO_SHORT = [
    (op, length)
    for op, (exact, _) in LENGTHS.items()
    for length in [*range(min(exact, 160)), *range(max(160, exact - 8), exact)]
    if (op, length) != (Op.GET_VF_RESOURCES, 0)
]
LONG_LISTS = [(op, length) for op in LISTS for length in range(LENGTHS[op][0], LENGTHS[op][1] + 2)]
EXACT_ONLY = [op for op in LENGTHS if op not in LISTS]


def body(op: Op, length: int) -> bytes:
    """The valid request of `op`, cut or filled up with ones to `length`."""
    exact = m.encode(op, *valid_requests()[op], padded=False)
    return (exact + b"\xff" * length)[:length]


def repeated(items: Sequence[Wire] | bytes, count: int) -> Sequence[Wire] | bytes:
    """The first element, `count` times."""
    return items[:1] * count if isinstance(items, bytes) else [items[0]] * count


def test_lengths_cover_every_layout() -> None:
    assert LENGTHS.keys() == m.LAYOUTS.keys()


@pytest.mark.parametrize("op", LENGTHS)
def test_encode_gives_the_lengths_of_the_drivers(op: Op) -> None:
    head, items = valid_requests()[op]
    exact = len(m.encode(op, head, items, padded=False))
    assert (exact, len(m.encode(op, head, items))) == LENGTHS[op]


@pytest.mark.parametrize("op", LENGTHS)
def test_decode_returns_what_encode_was_given(op: Op) -> None:
    head, items = valid_requests()[op]
    request = m.decode(op, m.encode(op, head, items))
    if isinstance(request, m.Listing):
        assert tuple(request.items) == tuple(items)
        assert getattr(request.head, LISTS[op].count) == len(items)
    else:
        assert request == head


@pytest.mark.parametrize(("op", "length"), TOO_SHORT)
def test_shorter_request_is_refused_and_changes_nothing(op: Op, length: int) -> None:
    vf = FakeVf().bring_up(caps_for(op))
    before = vf.snapshot()
    answers = vf.session.handle(op, body(op, length))
    assert answers == [Reply(op, Status.ERR_PARAM)]
    assert vf.snapshot() == before


@pytest.mark.parametrize("op", EXACT_ONLY)
def test_longer_request_that_is_no_list_is_refused(op: Op) -> None:
    vf = FakeVf().bring_up(caps_for(op))
    before = vf.snapshot()
    answers = vf.session.handle(op, body(op, LENGTHS[op][0] + 1))
    assert answers == [Reply(op, Status.ERR_PARAM)]
    assert vf.snapshot() == before


@pytest.mark.parametrize(("op", "length"), LONG_LISTS)
@pytest.mark.trap(21)
def test_list_is_accepted_exact_and_padded(op: Op, length: int) -> None:
    exact = m.decode(op, body(op, LENGTHS[op][0]))
    assert m.decode(op, body(op, length)) == exact


@pytest.mark.parametrize("op", LISTS)
def test_list_of_nothing_is_refused(op: Op) -> None:
    empty = m.encode(op, valid_requests()[op][0], ())
    with pytest.raises(m.VirtchnlError, match=r"=0, allowed 1\.\."):
        m.decode(op, empty)


@pytest.mark.parametrize("op", LISTS)
def test_longest_list_fills_an_admin_queue_buffer(op: Op) -> None:
    head, items = valid_requests()[op]
    assert LISTS[op].max_count == MAX_COUNTS[op]
    data = m.encode(op, head, repeated(items, MAX_COUNTS[op]))
    assert len(data) <= MAX_MESSAGE
    request = m.decode(op, data)
    assert isinstance(request, m.Listing)
    assert len(request.items) == MAX_COUNTS[op]


@pytest.mark.parametrize("op", LISTS)
def test_count_above_the_maximum_is_refused(op: Op) -> None:
    head, items = valid_requests()[op]
    data = m.encode(op, head, repeated(items, MAX_COUNTS[op] + 1))
    with pytest.raises(m.VirtchnlError, match="allowed 1"):
        m.decode(op, data)


@pytest.mark.parametrize("op", LISTS)
def test_count_larger_than_the_body_is_refused(op: Op) -> None:
    head, items = valid_requests()[op]
    data = bytearray(m.encode(op, head, items))
    tail = LISTS[op]
    offset = COUNT_AT.get(op, 2)
    data[offset : offset + 2] = (len(items) + tail.extra + 1).to_bytes(2, "little")
    with pytest.raises(m.VirtchnlError, match="needs"):
        m.decode(op, bytes(data))


def test_queue_pair_bytes_stand_where_ice_reads_them() -> None:
    made = pair(
        3,
        tx_ring_len=0x0140,
        tx_headwb_enabled=7,
        tx_dma_ring_addr=0x1122334455667788,
        tx_dma_headwb_addr=0x0102030405060708,
        rx_ring_len=0x00A1B2C3,
        rx_hdr_size=0x1111,
        rx_splithdr_enabled=0x2222,
        rx_databuffer_size=0x33333333,
        rx_max_pkt_size=0x44444444,
        rx_crc_disable=0x55,
        rx_rxdid=0x66,
        rx_flags=0x77,
        rx_dma_ring_addr=0x99AABBCCDDEEFF00,
        rx_split_pos=-1,
    )
    assert made.encode() == bytes.fromhex(
        "0100 0300 4001 0700 8877665544332211 0807060504030201"
        "0100 0300 c3b2a100 1111 2222 33333333 44444444 55 66 77 00"
        "00ffeeddccbbaa99 ffffffff 00000000"
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (m.VectorEntry(1, 2, 3, 4, 5, 6), "0100 0200 0300 0400 0500 0600"),
        (m.EtherAddr(b"\x52\x54\x00\x12\x34\x56", 1), "525400123456 01 00"),
        (m.QueueSelect(1, 2, 3), "0100 0000 02000000 03000000"),
        (
            m.VlanFilter(1, 2, 3, 4, 5, 6),
            "0100 0200 0300 0000 0400 0500 0600 0000" + "00" * 16,
        ),
        (m.VlanSetting(1, 2, 3), "01000000 02000000 0300 000000000000"),
        (m.QueueChunkList(1, 2), "0100 0000 0200 0000"),
        (m.QueueChunk(1, 2, 3), "01000000 0200 0300"),
        (m.QueueVectorList(1, 2), "0100 0200 00000000"),
        (m.QueueVector(1, 2, 3, 1), "0100 0200 00000000 03000000 01000000"),
        (m.MaxRssQregion(1, 6), "0100 0600 00000000"),
        (m.PfEvent(1, 100000, 1, 0), "01000000 a0860100 01 000000 00000000"),
        (
            m.VlanCaps(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
            "01000000 02000000 03000000 0400 0000 05000000 06000000"
            "07000000 08000000 09000000 0a 000000",
        ),
        (
            m.VfResources(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, b"\x52\x54\x00\x12\x34\x56"),
            "0100 0200 0300 0400 05000000 06000000 07000000 0800 0900 0a000000 0b00 525400123456",
        ),
    ],
)
def test_structure_bytes_stand_where_the_specification_puts_them(made: Wire, expected: str) -> None:
    assert made.encode() == bytes.fromhex(expected)
