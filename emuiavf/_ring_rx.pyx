"""A Rx ring: which buffers a frame gets, and the copies."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from emuiavf._atomic cimport (
    load_acquire_ptr, load_acquire_u32, load_relaxed_u64, spin_lock, spin_unlock,
)
from emuiavf._bits cimport count_bits, lowest_bit, prefetch_write
from emuiavf._dma cimport MEM_READ, MEM_WRITE, MemMap, mem_translate
from emuiavf._phc cimport phc_now
from emuiavf._ring_back cimport write_back
from emuiavf._ring_plain cimport rx_account, rx_alike, rx_fault, rx_plain
from emuiavf._ring_state cimport (
    DETAIL_STAMP, FAULT_ADDRESS, FAULT_RING, RX_DESC_SIZE, RX_ITEMS, RX_MAX_BUFFERS, STRIP_INNER,
    Batch, Item, RingState, RxRun, RxSet, VfRun,
)
from emuiavf._ring_tail cimport ring_ahead
from emuiavf.datapath._copy cimport Gather, emit_frame, emit_segment, gather_begin
from emuiavf.datapath._frame cimport (
    ETHER_ADDRESSES, ETHER_FCS, ETHER_TAG, ETHER_VLAN, FRAME_ASK_TSO, FRAME_IP_BAD, FRAME_L4_BAD,
    PUT_DROP, RX_BAD_ADDRESS, RX_BROADCAST, RX_BYTES, RX_CSUM_BAD, RX_DISCARDED_BYTES, RX_DISCARDS,
    RX_MULTICAST, RX_NO_BUFFER, RX_PACKETS, RX_TOO_LONG, RX_UNICAST, Burst, Frame, Segment,
)
from emuiavf.datapath._offload cimport load_be16


cdef extern from "crc32.h" nogil:
    enum:
        CRC32_START
    void crc32_prepare() noexcept
    uint32_t crc32_add(uint32_t crc, const uint8_t *src, size_t length) noexcept


cdef extern from "writeback.h" nogil:
    enum:
        RX_L2TAG1
        RX_L2TAG2
        STAMP_VALID


cdef extern from *:
    bint unlikely(bint condition) noexcept nogil


cdef enum:
    RX_TAG_BYTES = 15  # of what rx_strip() returns; the rest says where the tags go


cdef uint32_t rx_room(RxRun *rx, uint32_t wanted) noexcept nogil:
    cdef uint32_t tail, head = rx.state.head, ring_len = rx.state.ring_len
    cdef uint32_t known = ring_ahead(head, rx.known_tail, ring_len)
    if known >= wanted:
        return known
    tail = load_acquire_u32(rx.tail)
    if tail >= ring_len:
        return 0
    rx.known_tail = tail
    return ring_ahead(head, tail, ring_len)


cdef inline bint rx_fits(RxRun *rx, Batch *batch, uint32_t need) noexcept nogil:
    """Whether so many buffers are posted behind those that the batch has taken; before the answer
    is no, the tail is read again."""
    cdef uint32_t used, room
    if unlikely(need > batch.room):
        used = ring_ahead(rx.state.head, batch.slot, rx.state.ring_len)
        room = rx_room(rx, used + need)
        batch.room = room - used if room > used else 0
    return need <= batch.room


cdef int rx_prepare(VfRun *vf, RxRun *rx, Batch *batch, Frame *frame, uint32_t at,
                    uint32_t length, uint32_t moved) noexcept nogil:
    """Take buffers for `length` bytes; returns 0 after a fault of the driver's descriptors."""
    cdef Item *item = &batch.items[batch.num_items]
    cdef RingState *state = rx.state
    cdef uint32_t left = length, now, slot = batch.slot, piece = batch.num_pieces
    cdef const uint64_t *desc
    cdef uint8_t *host
    while left:
        now = state.databuffer_size if left > state.databuffer_size else left
        desc = <const uint64_t *>(batch.ring + slot * RX_DESC_SIZE)
        host = mem_translate(rx.map, &rx.hint, load_relaxed_u64(desc), now, MEM_WRITE)
        if host == NULL:
            rx_fault(vf, rx, FAULT_ADDRESS)
            return 0
        prefetch_write(host)
        batch.pieces[piece].data = host
        batch.pieces[piece].len = now
        piece += 1
        left -= now
        slot += 1
        if slot == state.ring_len:
            slot = 0
    item.frame = frame
    item.at = at
    item.length = length
    item.moved = moved
    item.first = batch.num_pieces
    item.pieces = piece - batch.num_pieces
    batch.room -= item.pieces
    batch.num_pieces = piece
    batch.slot = slot
    batch.num_items += 1
    return 1


cdef inline void rx_count(RxRun *rx, const Batch *batch) noexcept nogil:
    rx.row[RX_BYTES] += batch.bytes
    rx.row[RX_UNICAST] += batch.cast[0]
    rx.row[RX_MULTICAST] += batch.cast[1]
    rx.row[RX_BROADCAST] += batch.cast[3]


cdef void rx_append_fcs(const Segment *into, uint32_t length) noexcept nogil:
    """Write the FCS behind the `length` bytes that the pieces have: of what stands there."""
    cdef uint32_t crc = CRC32_START, now = 0
    cdef int i
    while length:
        now = into.len if into.len < length else length
        crc = crc32_add(crc, into.data, now)
        length -= now
        if length == 0 and now < into.len:
            break
        into += 1
        now = 0
    crc = ~crc
    for i in range(ETHER_FCS):
        if now == into.len:
            into += 1
            now = 0
        into.data[now] = <uint8_t>(crc >> 8 * i)
        now += 1


cdef void rx_flush(RxRun *rx, Batch *batch) noexcept nogil:
    """Copy every prepared delivery, then hand the descriptors to the driver in ring order."""
    cdef Item *item
    cdef Frame *frame
    cdef Frame *open_frame = NULL
    cdef Gather gather
    cdef uint32_t verdicts[RX_ITEMS]
    cdef uint32_t i, header, strip, fcs = rx.state.fcs
    for i in range(batch.num_items):
        item = &batch.items[i]
        frame = item.frame
        verdicts[i] = 0
        strip = item.moved & RX_TAG_BYTES
        if frame.flags & FRAME_ASK_TSO:
            if frame != open_frame:
                header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
                gather_begin(&gather, frame, header + item.at)
                open_frame = frame
            emit_segment(frame, item.at, &gather, strip, &batch.pieces[item.first])
        else:
            verdicts[i] = emit_frame(frame, strip, &batch.pieces[item.first], batch.judge)
        batch.csum_bad += (frame.flags & FRAME_IP_BAD | verdicts[i] & FRAME_L4_BAD) != 0
        if unlikely(fcs):
            rx_append_fcs(&batch.pieces[item.first], item.length - ETHER_FCS)
    write_back(rx.state, batch, verdicts)
    batch.packets += batch.num_items
    batch.num_items = 0
    batch.num_pieces = 0


cdef int rx_large(VfRun *vf, RxRun *rx, Batch *batch, Frame *frame, uint32_t moved) noexcept nogil:
    """Segments of a frame to be cut, from its cursor on; returns 1 when all are delivered."""
    cdef uint32_t header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
    cdef uint32_t payload = frame.len - header, strip = moved & RX_TAG_BYTES, length, need
    while frame.cursor < payload:
        length = payload - frame.cursor
        if length > frame.mss:
            length = frame.mss
        length += header - strip + rx.state.fcs
        need = (length + rx.state.databuffer_size - 1) // rx.state.databuffer_size
        if not rx_fits(rx, batch, need):
            return 0
        if batch.num_items == RX_ITEMS:
            rx_flush(rx, batch)
        if not rx_prepare(vf, rx, batch, frame, frame.cursor, length, moved):
            return 0
        rx_account(batch, frame, length + strip - rx.state.fcs)
        frame.cursor += frame.mss
    return 1


cdef inline uint32_t rx_strip(const RxSet *rx_set, const Frame *frame) noexcept nogil:
    """Bytes of the tags that leave a frame, with RX_L2TAG1 and RX_L2TAG2 for where they go.

    The outermost goes to L2TAG2 if it is the outer one; then the first that is left to L2TAG1.
    """
    cdef uint32_t moved = 0, bytes = 0, outer = rx_set.strip >> 16
    cdef const uint8_t *tag = frame.head + ETHER_ADDRESSES
    if not rx_set.strip or frame.head_len < ETHER_ADDRESSES + ETHER_TAG + 2:
        return 0
    if unlikely(outer) and load_be16(tag) == outer:
        tag += ETHER_TAG
        bytes = ETHER_TAG
        moved = RX_L2TAG2
        if frame.head_len < ETHER_ADDRESSES + 2 * ETHER_TAG + 2:
            return moved | bytes
    if rx_set.strip & STRIP_INNER and load_be16(tag) == ETHER_VLAN:
        bytes += ETHER_TAG
        moved |= RX_L2TAG1
    return moved | bytes


cdef uint32_t rx_untagged(const RxSet *rx_set, const Burst *burst, uint32_t mask) noexcept nogil:
    """The frames of `mask` before the first that a tag leaves."""
    cdef uint32_t left = mask
    while left and not rx_strip(rx_set, &burst.frames[lowest_bit(left)]):
        left &= left - 1
    return mask & ~left


cdef inline uint32_t rx_longest(const Frame *frame) noexcept nogil:
    """Bytes of the largest segment of a frame to be cut."""
    cdef uint32_t header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
    cdef uint32_t payload = frame.len - header
    return header + (frame.mss if payload > frame.mss else payload)


cdef inline uint32_t rx_segments(const Frame *frame) noexcept nogil:
    """Frames that this one still becomes."""
    cdef uint32_t payload
    if not frame.flags & FRAME_ASK_TSO:
        return 1
    payload = frame.len - frame.l2_len - frame.l3_len - frame.l4_len
    if frame.cursor >= payload:
        return 0
    return (payload - frame.cursor + frame.mss - 1) // frame.mss


cdef void rx_discard(RxRun *rx, Batch *batch, Frame *frame, int reason) noexcept nogil:
    """Count a frame (or the segments left of it) as received and discarded."""
    cdef uint32_t count = rx_segments(frame), _segment, header, length
    for _segment in range(count):
        length = frame.len
        if frame.flags & FRAME_ASK_TSO:
            header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
            length = frame.len - header - frame.cursor
            length = header + (frame.mss if length > frame.mss else length)
            frame.cursor += frame.mss
        rx_account(batch, frame, length)
        rx.row[RX_DISCARDED_BYTES] += length + ETHER_FCS
    rx.row[RX_DISCARDS] += count
    rx.row[reason] += count


cdef uint32_t rx_wants(const RxRun *rx, const RxSet *rx_set, const Frame *frame) noexcept nogil:
    cdef uint32_t size = rx.state.databuffer_size
    cdef uint32_t more = rx.state.fcs - (rx_strip(rx_set, frame) & RX_TAG_BYTES)
    if frame.flags & FRAME_ASK_TSO:
        return rx_segments(frame) * ((rx_longest(frame) + more + size - 1) // size)
    return (frame.len + more + size - 1) // size


cdef void rx_refuse(RxRun *rx, Burst *burst, uint32_t mask, int reason) noexcept nogil:
    cdef Batch batch
    batch.bytes = batch.cast[0] = batch.cast[1] = batch.cast[3] = 0
    spin_lock(&rx.lock)
    while mask:
        rx_discard(rx, &batch, &burst.frames[lowest_bit(mask)], reason)
        mask &= mask - 1
    rx_count(rx, &batch)
    spin_unlock(&rx.lock)


cdef inline uint64_t rx_stamp() noexcept nogil:
    """One reading of the clock for a burst: its frames are there."""
    return phc_now() << 32 | STAMP_VALID


cdef uint32_t rx_put(VfRun *vf, RxRun *rx, const RxSet *rx_set, Burst *burst, uint32_t mask,
                     uint64_t kind, uint32_t how, bint *moved) noexcept nogil:
    cdef Batch batch
    cdef Frame *frame
    cdef uint32_t accepted = 0, bare, done, bit, tags, more, need, longest
    cdef uint32_t fcs = rx.state.fcs, plain = rx.state.databuffer_size
    cdef const MemMap *map = <const MemMap *>load_acquire_ptr(<void **>vf.map)
    batch.num_items = batch.num_pieces = 0
    batch.bytes = batch.cast[0] = batch.cast[1] = batch.cast[3] = 0
    batch.packets = batch.csum_bad = 0
    batch.judge = vf.judge
    batch.ruled = rx_set.rules != NULL
    batch.more = batch.ruled | rx.state.details
    if unlikely(batch.more):
        batch.stamp = rx_stamp() if rx.state.details & DETAIL_STAMP else 0
    rx.map = map
    if map.generation != rx.map_seen:
        rx.map_seen = map.generation
        rx.ring_hint = NULL
        rx.hint = NULL
    if plain > rx.state.max_pkt_size:
        plain = rx.state.max_pkt_size
    batch.slot = rx.state.head
    batch.room = rx_room(rx, <uint32_t>count_bits(mask))
    batch.ring = mem_translate(map, &rx.ring_hint, rx.state.dma_ring_addr,
                               <uint64_t>rx.state.ring_len * RX_DESC_SIZE, MEM_READ | MEM_WRITE)
    rx.ring = batch.ring
    if batch.ring == NULL and not rx.fault:
        rx_fault(vf, rx, FAULT_RING)
    bare = 0 if fcs else mask
    # What is known to be of one kind has no tag.
    if rx_set.strip and not kind:
        bare &= rx_untagged(rx_set, burst, mask)
    # Until the ring's end, and from its beginning.
    while bare and not rx.fault:
        done = rx_alike(rx, &batch, burst, bare, kind, plain) if kind else 0
        if done == 0:
            done = rx_plain(vf, rx, &batch, burst, bare, plain)
        if done == 0:
            break
        accepted |= done
        bare &= ~done
        mask &= ~done
    while mask:
        bit = mask & (~mask + 1)
        mask ^= bit
        frame = &burst.frames[lowest_bit(bit)]
        if rx.fault:
            rx_discard(rx, &batch, frame, RX_BAD_ADDRESS)
            accepted |= bit
            continue
        tags = rx_strip(rx_set, frame)
        longest = frame.len
        if frame.flags & FRAME_ASK_TSO:
            longest = rx_longest(frame)
        more = fcs - (tags & RX_TAG_BYTES)
        need = (longest + more + rx.state.databuffer_size - 1) // rx.state.databuffer_size
        if longest > rx.state.max_pkt_size or need > RX_MAX_BUFFERS:
            rx_discard(rx, &batch, frame, RX_TOO_LONG)
            accepted |= bit
            continue
        if frame.flags & FRAME_ASK_TSO:
            if rx_large(vf, rx, &batch, frame, tags):
                accepted |= bit
                continue
        elif rx_fits(rx, &batch, need):
            if batch.num_items == RX_ITEMS:
                rx_flush(rx, &batch)
            if rx_prepare(vf, rx, &batch, frame, 0, frame.len + more, tags):
                rx_account(&batch, frame, frame.len)
                accepted |= bit
                continue
        if rx.fault:
            rx_discard(rx, &batch, frame, RX_BAD_ADDRESS)
            accepted |= bit
            continue
        if not how & PUT_DROP:
            break
        rx_discard(rx, &batch, frame, RX_NO_BUFFER)
        accepted |= bit
    if batch.num_items:
        rx_flush(rx, &batch)
    rx_count(rx, &batch)
    rx.row[RX_PACKETS] += batch.packets
    rx.row[RX_CSUM_BAD] += batch.csum_bad
    moved[0] = batch.packets != 0
    return accepted


crc32_prepare()
