"""Plain frames into a Rx ring: one buffer each, and nothing done to them but the copy."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from emuiavf._atomic cimport load_relaxed_u64, store_seq_u32
from emuiavf._bits cimport (
    count_bits, first_bits, in_a_row, lowest_bit, prefetch_read, prefetch_write,
)
from emuiavf._dma cimport MEM_WRITE, MemReach, mem_reach, mem_reached, mem_translate
from emuiavf._ring_back cimport write_back_plain
from emuiavf._ring_state cimport (
    FAULT_ADDRESS, FAULT_NONE, RX_DESC_SIZE, Batch, RxRun, VfRun,
)
from emuiavf._ring_tail cimport ring_ahead
from emuiavf._rxplain cimport (
    PlainFrames, plain_back, plain_back_alike, plain_buffers, plain_copy, plain_copy_alike,
    plain_expect,
)
from emuiavf.datapath._copy cimport emit_whole
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, ETHER_FCS, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_HEAD,
    FRAME_HEADROOM, FRAME_IP_BAD, FRAME_L4_BAD, FRAME_MULTICAST, FRAME_TUNNEL, L4_SCTP, Burst,
    Frame,
)
from emuiavf.datapath._offload cimport frame_copy


cdef extern from "wait.h" nogil:
    void event_signal(int fd) noexcept


cdef extern from *:
    bint likely(bint condition) noexcept nogil
    bint unlikely(bint condition) noexcept nogil


cdef enum:
    # Bytes that a frame wholly in its head has at most.
    WHOLE_MAX = FRAME_HEADROOM + FRAME_HEAD
    # What keeps a frame from being delivered by a plain copy of its head.
    FRAME_WORK = FRAME_ASK_TSO | FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_TUNNEL
    # ... and what of one is counted apart.
    FRAME_NOTED = FRAME_MULTICAST | FRAME_IP_BAD | FRAME_L4_BAD


cdef void rx_fault(VfRun *vf, RxRun *rx, uint32_t fault) noexcept nogil:
    if rx.fault == FAULT_NONE:
        store_seq_u32(&rx.fault, fault)
        event_signal(vf.fault_fd)


cdef void rx_expect(const RxRun *rx, uint32_t count) noexcept nogil:
    """Ask for what a put of `count` frames reads first, while there is other work to be done."""
    if ring_ahead(rx.state.head, rx.known_tail, rx.state.ring_len) < count:
        prefetch_read(rx.tail)
    if rx.ring != NULL:
        plain_expect(rx.ring + rx.state.head * RX_DESC_SIZE, count)


cdef uint32_t rx_whole(RxRun *rx, Batch *batch, Burst *burst, uint32_t mask, uint32_t limit,
                       PlainFrames *plain) noexcept nogil:
    """Buffers for the first frames of `mask`, `limit` of them at most and all wholly in their
    heads, and the copies; returns how many have theirs: those whose buffers are within reach."""
    cdef uint8_t *buffers[BURST_FRAMES]
    cdef uint32_t count = min(<uint32_t>count_bits(mask), limit)
    cdef MemReach reach = mem_reach(rx.hint, WHOLE_MAX, MEM_WRITE)
    count = plain_buffers(batch.ring + rx.state.head * RX_DESC_SIZE, count, &reach, buffers)
    plain_copy(burst, mask, count, buffers, plain)
    return count


cdef uint32_t rx_single(VfRun *vf, RxRun *rx, Batch *batch, Burst *burst, uint32_t mask,
                        uint32_t limit, uint32_t longest, PlainFrames *plain) noexcept nogil:
    """The same for frames as long as each is copied as it is, in at most two parts, into one
    buffer.  Two passes, so that the misses of one frame overlap those of the next."""
    cdef uint8_t *buffers[BURST_FRAMES]
    cdef const uint8_t *desc = batch.ring + rx.state.head * RX_DESC_SIZE
    cdef uint32_t count = 0, flags, i
    cdef uint64_t iova
    cdef MemReach reach = mem_reach(rx.hint, longest, MEM_WRITE)
    cdef uint8_t *host
    cdef Frame *frame
    while mask and count < limit:
        frame = &burst.frames[lowest_bit(mask)]
        if frame.flags & FRAME_WORK or frame.len > longest or (
                frame.num_segs and (frame.num_segs > 1 or frame.l4_proto == L4_SCTP)):
            break
        iova = load_relaxed_u64(<const uint64_t *>(desc + count * RX_DESC_SIZE))
        host = mem_reached(&reach, iova)
        if unlikely(host == NULL):
            host = mem_translate(rx.map, &rx.hint, iova, frame.len, MEM_WRITE)
            if host == NULL:
                rx_fault(vf, rx, FAULT_ADDRESS)
                break
            reach = mem_reach(rx.hint, longest, MEM_WRITE)
        prefetch_write(host)
        buffers[count] = host
        plain.frames[count] = frame
        count += 1
        mask &= mask - 1
    plain.seen = plain.bytes = 0
    for i in range(count):
        frame = plain.frames[i]
        flags = frame.flags
        if likely(frame.num_segs == 0):
            frame_copy(buffers[i], frame.head, frame.len)
        else:
            # Not kept in the frame: the next receiver gets what the sender's memory then holds.
            flags |= emit_whole(frame, buffers[i], batch.judge)
        plain.kinds[i] = frame.len | <uint64_t>flags << 32
        plain.seen |= plain.kinds[i]
        plain.bytes += frame.len
    return count


cdef inline void rx_advance(RxRun *rx, Batch *batch, uint32_t count) noexcept nogil:
    """Plain frames have been handed over, up to the ring's end at most."""
    cdef uint32_t slot = rx.state.head + count
    rx.state.head = batch.slot = slot if slot < rx.state.ring_len else 0
    batch.room -= count
    batch.packets += count


cdef uint32_t rx_alike(RxRun *rx, Batch *batch, Burst *burst, uint32_t mask, uint64_t kind,
                       uint32_t longest) noexcept nogil:
    """See _ring_plain.pxd.  None when they are not in a row and wholly in their heads, or when
    there is something to be noted of them."""
    cdef uint8_t *buffers[BURST_FRAMES]
    cdef const Frame *frames = &burst.frames[lowest_bit(mask)]
    cdef uint8_t *desc = batch.ring + rx.state.head * RX_DESC_SIZE
    cdef uint32_t length = <uint32_t>kind, count = <uint32_t>count_bits(mask)
    cdef MemReach reach
    if (mask & ~burst.whole or length > longest or kind >> 32 & FRAME_NOTED or batch.more
            or not in_a_row(mask)):
        return 0
    reach = mem_reach(rx.hint, length, MEM_WRITE)
    count = min(count, batch.room, rx.state.ring_len - rx.state.head)
    count = plain_buffers(desc, count, &reach, buffers)
    if count == 0:
        return 0
    plain_copy_alike(frames, count, length, buffers)
    batch.bytes += <uint64_t>(length + ETHER_FCS) * count
    batch.cast[0] += count
    plain_back_alike(rx.state.writeback, desc, frames, count, kind)
    rx_advance(rx, batch, count)
    return first_bits(mask, count)


cdef uint32_t rx_plain(VfRun *vf, RxRun *rx, Batch *batch, Burst *burst, uint32_t mask,
                       uint32_t longest) noexcept nogil:
    """See _ring_plain.pxd."""
    cdef PlainFrames plain
    cdef uint32_t count = 0, i, slot = rx.state.head, rxdid = rx.state.writeback
    cdef uint32_t limit = min(batch.room, rx.state.ring_len - slot)
    if likely(not mask & ~burst.whole and longest >= WHOLE_MAX):
        count = rx_whole(rx, batch, burst, mask, limit, &plain)
    if count == 0:
        count = rx_single(vf, rx, batch, burst, mask, limit, longest, &plain)
    if count == 0:
        return 0
    if unlikely(plain.seen >> 32 & FRAME_NOTED):
        for i in range(count):
            batch.csum_bad += (plain.kinds[i] >> 32 & (FRAME_IP_BAD | FRAME_L4_BAD)) != 0
            rx_account(batch, plain.frames[i], plain.frames[i].len)
    else:
        batch.bytes += plain.bytes + <uint64_t>ETHER_FCS * count
        batch.cast[0] += count
    if unlikely(batch.more):
        write_back_plain(rx.state, batch, plain.frames, plain.kinds, count)
    else:
        plain_back(rxdid, batch.ring + slot * RX_DESC_SIZE, &plain, count)
    rx_advance(rx, batch, count)
    return first_bits(mask, count)
