"""Writeback: Rx descriptors of filled buffers handed to the driver, in ring order.

The format is the ring's (include/writeback.h).  One branch a burst: each call is made for its
constants.  What most guests have none of, marks of rules, words of headers (include/extract.h) and
times, is a constant too; of these only times have calls of their own, since Linux 7 has every
frame stamped.  Plain frames without any of these are written back in include/rxplain.h.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from emuiavf._ring_state cimport RX_DESC_SIZE, Batch, Item, RingState
from emuiavf.datapath._frame cimport ETHER_ADDRESSES, ETHER_TAG, Frame
from emuiavf.datapath._offload cimport load_be16


cdef extern from "writeback.h" nogil:
    enum:
        RXDID_LEGACY
        RXDID_FLEX_NIC
        RXDID_FLEX_OVS
        RX_L2TAG1
        RX_L2TAG2
        RX_CRC
    ctypedef struct Writeback:
        pass
    Writeback writeback_base(uint32_t rxdid, uint64_t flags, uint32_t verdict,
                             uint32_t extra, uint64_t stamp) noexcept
    Writeback writeback_of(uint32_t rxdid, const Writeback *base, const Frame *frame,
                           uint64_t tag1, uint64_t tag2) noexcept
    void writeback_mark(uint32_t rxdid, Writeback *made, const Frame *frame) noexcept
    void writeback_store(uint32_t rxdid, uint64_t *desc, const Writeback *made, uint32_t length,
                         uint32_t last) noexcept


cdef extern from "extract.h" nogil:
    void writeback_extract(uint32_t rxdid, Writeback *made, const Frame *frame,
                           uint32_t at) noexcept


cdef extern from *:
    bint unlikely(bint condition) noexcept nogil


cdef inline void plain(
    uint32_t rxdid, uint64_t stamp, bint more, const Batch *batch, Frame *const *frames,
    const uint64_t *kinds, uint32_t count, const RingState *state,
) noexcept nogil:
    """Write back frames of one buffer each from the head on."""
    cdef uint32_t i, last = <uint32_t>(kinds[0] >> 32)
    cdef uint8_t *desc = batch.ring + state.head * RX_DESC_SIZE
    cdef Writeback base = writeback_base(rxdid, last, last, 0, stamp), made
    for i in range(count):
        if unlikely(kinds[i] >> 32 != last):
            last = <uint32_t>(kinds[i] >> 32)
            base = writeback_base(rxdid, last, last, 0, stamp)
        made = writeback_of(rxdid, &base, frames[i], 0, 0)
        if more:
            if batch.ruled:
                writeback_mark(rxdid, &made, frames[i])
            if not stamp:
                writeback_extract(rxdid, &made, frames[i], 0)
        writeback_store(rxdid, <uint64_t *>(desc + i * RX_DESC_SIZE), &made, frames[i].len, 1)


cdef inline Writeback descriptor_of(uint32_t rxdid, uint64_t stamp, const Item *item,
                                    uint32_t verdict, uint32_t fcs) noexcept nogil:
    """`fcs`: RX_CRC where the buffers end with it."""
    cdef const Frame *frame = item.frame
    cdef uint32_t moved = item.moved
    cdef uint64_t tag1 = 0, tag2 = 0
    cdef Writeback base = writeback_base(rxdid, frame.flags, verdict, moved | fcs, stamp)
    if moved:
        tag1 = load_be16(frame.head + ETHER_ADDRESSES + 2)
        if moved & RX_L2TAG2:
            tag2 = tag1
            tag1 = 0
            if moved & RX_L2TAG1:
                tag1 = load_be16(frame.head + ETHER_ADDRESSES + ETHER_TAG + 2)
    return writeback_of(rxdid, &base, frame, tag1, tag2)


cdef inline uint32_t items(uint32_t rxdid, uint64_t stamp, bint more, const Batch *batch,
                           const uint32_t *verdicts, const RingState *state) noexcept nogil:
    """Write back the prepared deliveries from the head on; returns the slot behind them."""
    cdef const Item *item
    cdef Writeback made
    cdef uint32_t i, p, slot = state.head, ring_len = state.ring_len
    cdef uint32_t fcs = RX_CRC if state.fcs else 0
    for i in range(batch.num_items):
        item = &batch.items[i]
        made = descriptor_of(rxdid, stamp, item, verdicts[i], fcs)
        if more:
            if batch.ruled:
                writeback_mark(rxdid, &made, item.frame)
            if not stamp:
                writeback_extract(rxdid, &made, item.frame, item.at)
        for p in range(item.pieces):
            writeback_store(rxdid, <uint64_t *>(batch.ring + slot * RX_DESC_SIZE), &made,
                            batch.pieces[item.first + p].len, p + 1 == item.pieces)
            slot += 1
            if slot == ring_len:
                slot = 0
    return slot


cdef void write_back_plain(const RingState *state, const Batch *batch, Frame *const *frames,
                           const uint64_t *kinds, uint32_t count) noexcept nogil:
    cdef uint32_t rxdid = state.writeback
    cdef uint64_t stamp = batch.stamp
    if batch.ruled or not stamp:
        plain(rxdid, stamp, True, batch, frames, kinds, count, state)
    elif rxdid == RXDID_FLEX_NIC:
        plain(RXDID_FLEX_NIC, stamp, False, batch, frames, kinds, count, state)
    else:
        plain(rxdid, stamp, False, batch, frames, kinds, count, state)


cdef void write_back(RingState *state, const Batch *batch, const uint32_t *verdicts) noexcept nogil:
    cdef uint32_t slot, rxdid = state.writeback
    if unlikely(batch.more):
        slot = items(rxdid, batch.stamp, True, batch, verdicts, state)
    elif rxdid == RXDID_LEGACY:
        slot = items(RXDID_LEGACY, 0, False, batch, verdicts, state)
    elif rxdid == RXDID_FLEX_OVS:
        slot = items(RXDID_FLEX_OVS, 0, False, batch, verdicts, state)
    else:
        slot = items(RXDID_FLEX_NIC, 0, False, batch, verdicts, state)
    state.head = slot
