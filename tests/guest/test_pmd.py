"""The driver's rings against the model device: every field by hand, long runs at random."""

import random
import struct

import pytest

from emuiavf.guest._pmd import RxRing, TxBits, TxRing
from emuiavf.guest.frames import L4, Frame, Iipt, TxFrame
from emuiavf.guest.memory import DmaMemory
from tests.guest.conftest import Loop, make_loop

FRAME = bytes(range(64))


@pytest.mark.parametrize("ring_len", [0, 32, 63, 100, 8192])
def test_ring_length_not_allowed_is_refused(memory: DmaMemory, ring_len: int) -> None:
    block = memory.alloc(1 << 20)

    with pytest.raises(ValueError, match="ring_len"):
        TxRing(0, block, block, ring_len, 512)


@pytest.mark.parametrize("buf_size", [0, 100, 16384])
def test_buffer_size_not_allowed_is_refused(memory: DmaMemory, buf_size: int) -> None:
    block = memory.alloc(1 << 20)

    with pytest.raises(ValueError, match="buf_size"):
        RxRing(0, block, block, 64, buf_size)


def test_memory_too_small_for_the_ring_is_refused(memory: DmaMemory) -> None:
    with pytest.raises(ValueError, match="the ring needs"):
        TxRing(0, memory.alloc(64), memory.alloc(1 << 20), 64, 512)


def test_put_writes_the_descriptor_of_the_specification(loop: Loop, memory: DmaMemory) -> None:
    loop.tx.put(FRAME, TxBits.TX_ICRC)

    ring = loop.tx_model.ring - memory.iova
    assert memory.view[ring + 8 : ring + 16] == bytes.fromhex("5000000000010000")


def test_put_large_frame_takes_several_descriptors_and_eop_last(loop: Loop) -> None:
    data = random.Random(1).randbytes(1500)

    loop.tx.put(data, TxBits.TX_ICRC)

    assert loop.tx.tail == 3
    assert [frame.data for frame in loop.tx_model.take(3)] == [data]


def test_put_with_context_writes_it_in_front(loop: Loop) -> None:
    loop.tx.put(FRAME, TxBits.TX_ICRC, (0x1234, 0x10))

    taken = loop.tx_model.take(loop.tx.tail)[0]
    assert taken.context == (0x1234, 0x11)


def test_put_into_a_full_ring_returns_false_and_writes_nothing(loop: Loop) -> None:
    sent = [loop.tx.put(FRAME, TxBits.TX_ICRC) for _ in range(96)]

    assert sent == [True] * 95 + [False]
    assert loop.tx.tail == 95


def test_put_frame_larger_than_the_ring_is_refused(loop: Loop) -> None:
    with pytest.raises(ValueError, match="needs 96 descriptors"):
        loop.tx.put(bytes(96 * 512), 0)


def test_completions_every_32_descriptors_free_the_slots_before(loop: Loop) -> None:
    for _ in range(40):
        loop.tx.put(FRAME, TxBits.TX_ICRC)

    loop.tx_model.take(loop.tx.tail)

    assert loop.tx.free == 95 - 8
    assert loop.tx.idle


def test_report_completes_the_very_frame(loop: Loop) -> None:
    loop.tx.put(FRAME, TxBits.TX_ICRC, report=True)
    assert not loop.tx.idle

    loop.tx_model.take(loop.tx.tail)

    assert loop.tx.free == 95


def test_rx_ring_posts_all_but_one_buffer(loop: Loop) -> None:
    assert loop.rx.posted == 95
    assert loop.rx.tail == 95


def test_take_from_an_empty_ring_returns_none(loop: Loop) -> None:
    assert loop.rx.take() is None


def test_take_unfinished_frame_returns_none(loop: Loop, memory: DmaMemory) -> None:
    loop.rx_model.put(loop.rx.tail, bytes(1024))
    second = loop.rx_model.ring - memory.iova + 40
    qword1 = struct.unpack_from("<Q", memory.view, second)[0]
    struct.pack_into("<Q", memory.view, second, 0)
    assert loop.rx.take() is None

    struct.pack_into("<Q", memory.view, second, qword1)

    assert loop.rx.take() is not None


def test_take_length_beyond_the_buffer_is_cut(loop: Loop, memory: DmaMemory) -> None:
    loop.rx_model.put(loop.rx.tail, FRAME)
    struct.pack_into("<Q", memory.view, loop.rx_model.ring - memory.iova + 8, 3 | 0x3FFF << 38)

    taken = loop.rx.take()

    assert taken is not None
    assert len(taken[0]) == 512


def test_rearm_gives_buffers_back_in_batches_of_32(loop: Loop) -> None:
    for _ in range(32):
        loop.rx_model.put(loop.rx.tail, FRAME)
    for _ in range(31):
        loop.rx.take()
    assert loop.rx.tail == 95

    loop.rx.take()

    assert loop.rx.tail == (95 + 32) % 96
    assert loop.rx.posted == 95


def test_stale_done_bits_behind_the_tail_are_not_taken_for_frames(loop: Loop) -> None:
    for _ in range(95):
        loop.rx_model.put(95, FRAME)
    taken = [loop.rx.take() for _ in range(96)]

    assert sum(frame is not None for frame in taken) == 95


def test_reset_starts_over_at_slot_zero(loop: Loop) -> None:
    loop.tx.put(FRAME, 0, report=True)
    loop.rx_model.put(loop.rx.tail, FRAME)

    loop.tx.reset()
    loop.rx.reset()

    assert (loop.tx.tail, loop.tx.free, loop.rx.posted) == (0, 95, 95)
    assert loop.rx.take() is None


def test_hold_posts_only_some_buffers(loop: Loop) -> None:
    loop.rx.reset()
    loop.rx.hold(2)

    results = [loop.rx_model.put(loop.rx.tail, FRAME) for _ in range(3)]

    assert results == [True, True, False]


def test_mapped_doorbell_is_stored_where_it_was_mapped(memory: DmaMemory) -> None:
    page = memoryview(bytearray(4096))
    block = memory.alloc(1 << 20)
    tx = TxRing(3, block, block, 64, 512, page[12:16])

    tx.put(FRAME, 0)
    tx.ring_doorbell()

    assert bytes(page[12:16]) == b"\x01\0\0\0"
    assert tx.mapped


@pytest.mark.parametrize("seed", range(4))
def test_random_frames_come_back_whole_and_in_order(memory: DmaMemory, seed: int) -> None:
    rng = random.Random(seed)
    loop = make_loop(memory, ring_len=rng.choice([64, 96, 160]), buf_size=rng.choice([128, 384]))
    sent, received = [], []

    for _ in range(400):
        data = rng.randbytes(rng.randint(17, 1000))
        if loop.tx.put(data, TxBits.TX_ICRC, report=rng.random() < 0.2):
            sent.append(data)
        if rng.random() < 0.2:
            received += loop.carry_all()
    received += loop.carry_all()

    assert received == sent
    assert len(sent) > 200


TCP = bytes.fromhex(
    "020000000002" "020000000001" "0800"
    "4500002c00010000400611220a0000010a000002"
    "0050005100000001000000025010ffff33440000" "61626364"
)  # fmt: skip


def test_offloaded_asks_for_the_lengths_of_the_packet() -> None:
    frame = TxFrame.offloaded(TCP, mss=2)

    assert (frame.iipt, frame.l4) == (Iipt.IPV4_CSUM, L4.TCP)
    assert (frame.l2_len, frame.l3_len, frame.l4_len) == (14, 20, 20)
    assert frame.data[24:26] == b"\0\0"
    assert frame.data[50:52] == b"\0\0"


def test_offloaded_fields_and_context_match_the_specification() -> None:
    frame = TxFrame.offloaded(TCP, mss=2, vlan_tci=0x2005)

    assert frame.fields == 0x2005_0001_4287_16C0 | 0
    assert frame.context == (0, 0x11 | 4 << 30 | 2 << 50)


def test_plain_frame_has_no_context() -> None:
    assert TxFrame(FRAME).context is None


def test_offloaded_of_something_else_than_ip_is_refused() -> None:
    with pytest.raises(ValueError, match="ethertype 0x0806"):
        TxFrame.offloaded(TCP[:12] + b"\x08\x06" + TCP[14:])


def test_frame_reads_hash_tag_ptype_and_verdict(loop: Loop) -> None:
    bits = 3 << 12 | 1 << 2 | 1 << 3 | 1 << (19 + 4) | 26 << 30
    loop.rx_model.put(loop.rx.tail, FRAME, l2tag1=0x2064, rss=0xDEADBEEF, bits=bits)

    taken = loop.rx.take()
    assert taken is not None
    frame = Frame.from_descriptor(taken[0], 0, 1, *taken[1:])

    assert (frame.rss_hash, frame.vlan_tci, frame.ptype) == (0xDEADBEEF, 0x2064, 26)
    assert frame.checked
    assert not frame.checksums_good
