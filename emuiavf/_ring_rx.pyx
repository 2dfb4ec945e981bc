"""The Rx rings of a VF as one sink: buffers, copies, writeback, RSS over several rings."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memmove

from emuiavf._atomic cimport (
    load_acquire_ptr, load_acquire_u32, load_relaxed_ptr, load_relaxed_u32, load_relaxed_u64,
    spin_lock, spin_unlock, store_seq_u32,
)
from emuiavf._bits cimport lowest_bit, prefetch_write
from emuiavf._dma cimport MEM_READ, MEM_WRITE, MemMap, mem_translate
from emuiavf.datapath._copy cimport Gather, emit_frame, emit_segment, gather_begin
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_HASHED, FRAME_IP_BAD,
    FRAME_L4_BAD, FRAME_MULTICAST, PUT_DROP, RX_BAD_ADDRESS, RX_BROADCAST,
    RX_BYTES, RX_CSUM_BAD, RX_DISCARDED_BYTES, RX_DISCARDS, RX_MULTICAST, RX_NO_BUFFER, RX_PACKETS,
    RX_QUEUE_OFF, RX_TOO_LONG, RX_UNICAST, Burst, Frame, FrameSink,
)
from emuiavf.datapath._offload cimport burst_judge, frame_copy
from emuiavf._ring_state cimport (
    EVENT_RX, FAULT_ADDRESS, FAULT_NONE, FAULT_RING, RX_DESC_SIZE, RingState, RxRun, RxSet, Vector,
    VfRun,
)
from emuiavf._ring_irq cimport vector_event


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept
    void event_signal(int fd) noexcept


cdef extern from "writeback.h" nogil:
    enum:
        RXDID_LEGACY
        RXDID_FLEX_NIC
        RXDID_FLEX_OVS
    ctypedef struct Writeback:
        pass
    Writeback writeback_of(uint32_t rxdid, const Frame *frame, uint32_t verdict,
                           uint32_t tagged) noexcept
    void writeback_store(uint32_t rxdid, uint64_t *desc, const Writeback *made, uint32_t length,
                         uint32_t last) noexcept


cdef enum:
    VLAN_TAG = 4
    # What keeps a frame from being delivered by a plain copy of its head.
    FRAME_WORK = FRAME_ASK_TSO | FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM


cdef void rx_fault(VfRun *vf, RxRun *rx, uint32_t fault) noexcept nogil:
    if rx.fault == FAULT_NONE:
        store_seq_u32(&rx.fault, fault)
        event_signal(vf.fault_fd)


cdef inline void rx_account(Batch *batch, const Frame *frame, uint32_t length) noexcept nogil:
    """Received as the wire had it: with its tag and the FCS (GET_STATS counts so)."""
    batch.bytes += length + 4
    batch.cast[(frame.flags // FRAME_MULTICAST) & 3] += 1


cdef int rx_prepare(VfRun *vf, RxRun *rx, Batch *batch, Frame *frame, uint32_t at,
                    uint32_t length, uint32_t strip) noexcept nogil:
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
    item.strip = strip
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


cdef inline uint32_t rx_hand_over_plain(
    uint32_t rxdid, Batch *batch, const Burst *burst, const uint32_t *numbers, uint32_t count,
    uint32_t slot, uint32_t ring_len,
) noexcept nogil:
    """Write back frames of one buffer each from `slot` on; returns the slot behind them."""
    cdef const Frame *frame
    cdef Writeback made
    cdef uint32_t i
    for i in range(count):
        frame = &burst.frames[numbers[i]]
        made = writeback_of(rxdid, frame, frame.flags, 0)
        writeback_store(rxdid, <uint64_t *>(batch.ring + slot * RX_DESC_SIZE), &made, frame.len, 1)
        slot += 1
        if slot == ring_len:
            slot = 0
    return slot


cdef uint32_t rx_plain(VfRun *vf, RxRun *rx, Batch *batch, Burst *burst, uint32_t mask,
                       uint32_t longest) noexcept nogil:
    """The first frames of `mask` as long as each is one copy of a head into one buffer.

    Three passes, so that the misses of one frame overlap those of the next; returns the delivered
    frames.
    """
    cdef uint8_t *buffers[BURST_FRAMES]
    cdef uint32_t numbers[BURST_FRAMES]
    cdef uint32_t count = 0, slot = rx.state.head, ring_len = rx.state.ring_len, i, left = mask
    cdef uint8_t *host
    cdef Frame *frame
    while left and count < batch.room:
        i = <uint32_t>lowest_bit(left)
        frame = &burst.frames[i]
        if frame.num_segs != 0 or frame.flags & FRAME_WORK or frame.len > longest:
            break
        host = mem_translate(
            rx.map, &rx.hint, load_relaxed_u64(<uint64_t *>(batch.ring + slot * RX_DESC_SIZE)),
            frame.len, MEM_WRITE)
        if host == NULL:
            rx_fault(vf, rx, FAULT_ADDRESS)
            break
        prefetch_write(host)
        buffers[count] = host
        numbers[count] = i
        count += 1
        left &= left - 1
        slot += 1
        if slot == ring_len:
            slot = 0
    for i in range(count):
        frame = &burst.frames[numbers[i]]
        frame_copy(buffers[i], frame.head, frame.len)
        batch.csum_bad += (frame.flags & (FRAME_IP_BAD | FRAME_L4_BAD)) != 0
        rx_account(batch, frame, frame.len)
    slot = rx.state.head
    # One branch a burst: each call is made for its constant.
    if rx.state.writeback == RXDID_LEGACY:
        slot = rx_hand_over_plain(RXDID_LEGACY, batch, burst, numbers, count, slot, ring_len)
    elif rx.state.writeback == RXDID_FLEX_OVS:
        slot = rx_hand_over_plain(RXDID_FLEX_OVS, batch, burst, numbers, count, slot, ring_len)
    else:
        slot = rx_hand_over_plain(RXDID_FLEX_NIC, batch, burst, numbers, count, slot, ring_len)
    rx.state.head = slot
    batch.slot = slot
    batch.room -= count
    batch.packets += count
    return mask & ~left


cdef inline uint32_t rx_hand_over(uint32_t rxdid, const Batch *batch, const uint32_t *verdicts,
                                  uint32_t slot, uint32_t ring_len) noexcept nogil:
    """Write back the prepared deliveries from `slot` on; returns the slot behind them."""
    cdef const Item *item
    cdef Writeback made
    cdef uint32_t i, p
    for i in range(batch.num_items):
        item = &batch.items[i]
        made = writeback_of(rxdid, item.frame, verdicts[i], item.strip)
        for p in range(item.pieces):
            writeback_store(rxdid, <uint64_t *>(batch.ring + slot * RX_DESC_SIZE), &made,
                            batch.pieces[item.first + p].len, p + 1 == item.pieces)
            slot += 1
            if slot == ring_len:
                slot = 0
    return slot


cdef void rx_flush(RxRun *rx, Batch *batch) noexcept nogil:
    """Copy every prepared delivery, then hand the descriptors to the driver in ring order."""
    cdef Item *item
    cdef Frame *frame
    cdef Frame *open_frame = NULL
    cdef Gather gather
    cdef uint32_t verdicts[RX_ITEMS]
    cdef uint32_t i, header, slot
    for i in range(batch.num_items):
        item = &batch.items[i]
        frame = item.frame
        verdicts[i] = 0
        if frame.flags & FRAME_ASK_TSO:
            if frame != open_frame:
                header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
                gather_begin(&gather, frame, header + item.at)
                open_frame = frame
            emit_segment(frame, item.at, &gather, item.strip, &batch.pieces[item.first])
        else:
            verdicts[i] = emit_frame(frame, item.strip, &batch.pieces[item.first], batch.judge)
        batch.csum_bad += (frame.flags & FRAME_IP_BAD | verdicts[i] & FRAME_L4_BAD) != 0
    slot = rx.state.head
    if rx.state.writeback == RXDID_LEGACY:
        slot = rx_hand_over(RXDID_LEGACY, batch, verdicts, slot, rx.state.ring_len)
    elif rx.state.writeback == RXDID_FLEX_OVS:
        slot = rx_hand_over(RXDID_FLEX_OVS, batch, verdicts, slot, rx.state.ring_len)
    else:
        slot = rx_hand_over(RXDID_FLEX_NIC, batch, verdicts, slot, rx.state.ring_len)
    rx.state.head = slot
    batch.packets += batch.num_items
    batch.num_items = 0
    batch.num_pieces = 0


cdef int rx_large(VfRun *vf, RxRun *rx, Batch *batch, Frame *frame, uint32_t strip) noexcept nogil:
    """Segments of a frame to be cut, from its cursor on; returns 1 when all are delivered."""
    cdef uint32_t header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
    cdef uint32_t payload = frame.len - header, length, need
    while frame.cursor < payload:
        length = payload - frame.cursor
        if length > frame.mss:
            length = frame.mss
        length += header - strip
        need = (length + rx.state.databuffer_size - 1) // rx.state.databuffer_size
        if need > batch.room:
            return 0
        if batch.num_items == RX_ITEMS:
            rx_flush(rx, batch)
        if not rx_prepare(vf, rx, batch, frame, frame.cursor, length, strip):
            return 0
        rx_account(batch, frame, length + strip)
        frame.cursor += frame.mss
    return 1


cdef inline uint32_t rx_strip(const RxSet *rx_set, const Frame *frame) noexcept nogil:
    if rx_set.strip and frame.head_len >= 18 and frame.head[12] == 0x81 and frame.head[13] == 0:
        return VLAN_TAG
    return 0


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
        rx.row[RX_DISCARDED_BYTES] += length + 4
    rx.row[RX_DISCARDS] += count
    rx.row[reason] += count


cdef inline uint32_t rx_room(RxRun *rx) noexcept nogil:
    """Descriptors that the driver has posted; a tail beyond the ring reads as none."""
    cdef uint32_t tail = load_acquire_u32(rx.tail), head = rx.state.head
    if tail >= rx.state.ring_len:
        return 0
    return tail - head if tail >= head else tail + rx.state.ring_len - head


cdef inline uint32_t rx_need(const RxRun *rx, const Frame *frame, uint32_t strip) noexcept nogil:
    """Descriptors for a whole frame: all segments of one to be cut."""
    cdef uint32_t size = rx.state.databuffer_size
    if frame.flags & FRAME_ASK_TSO:
        return rx_segments(frame) * ((rx_longest(frame) - strip + size - 1) // size)
    return (frame.len - strip + size - 1) // size


cdef uint32_t rx_put(VfRun *vf, RxRun *rx, const RxSet *rx_set, Burst *burst, uint32_t mask,
                     uint32_t how, bint *moved) noexcept nogil:
    """Deliver the frames of `mask` to one ring, whose lock is held; returns the accepted ones."""
    cdef Batch batch
    cdef Frame *frame
    cdef uint32_t accepted = 0, bit, strip, need, longest, plain = rx.state.databuffer_size
    cdef const MemMap *map = <const MemMap *>load_acquire_ptr(<void **>vf.map)
    batch.num_items = batch.num_pieces = 0
    batch.bytes = batch.cast[0] = batch.cast[1] = batch.cast[3] = 0
    batch.packets = batch.csum_bad = 0
    batch.judge = vf.judge
    rx.map = map
    if map.generation != rx.map_seen:
        rx.map_seen = map.generation
        rx.ring_hint = NULL
        rx.hint = NULL
    if plain > rx.state.max_pkt_size:
        plain = rx.state.max_pkt_size
    batch.slot = rx.state.head
    batch.room = rx_room(rx)
    batch.ring = mem_translate(map, &rx.ring_hint, rx.state.dma_ring_addr,
                               <uint64_t>rx.state.ring_len * RX_DESC_SIZE, MEM_READ | MEM_WRITE)
    if batch.ring == NULL and not rx.fault:
        rx_fault(vf, rx, FAULT_RING)
    if not rx_set.strip and not rx.fault:
        accepted = rx_plain(vf, rx, &batch, burst, mask, plain)
        mask &= ~accepted
    while mask:
        bit = mask & (~mask + 1)
        mask ^= bit
        frame = &burst.frames[lowest_bit(bit)]
        if rx.fault:
            rx_discard(rx, &batch, frame, RX_BAD_ADDRESS)
            accepted |= bit
            continue
        strip = rx_strip(rx_set, frame)
        longest = frame.len
        if frame.flags & FRAME_ASK_TSO:
            longest = rx_longest(frame)
        need = (longest - strip + rx.state.databuffer_size - 1) // rx.state.databuffer_size
        if longest > rx.state.max_pkt_size or need > RX_MAX_BUFFERS:
            rx_discard(rx, &batch, frame, RX_TOO_LONG)
            accepted |= bit
            continue
        if frame.flags & FRAME_ASK_TSO:
            if rx_large(vf, rx, &batch, frame, strip):
                accepted |= bit
                continue
        elif need <= batch.room:
            if batch.num_items == RX_ITEMS:
                rx_flush(rx, &batch)
            if rx_prepare(vf, rx, &batch, frame, 0, frame.len - strip, strip):
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


cdef inline void rx_announce(VfRun *vf, RxRun *rx, uint64_t now) noexcept nogil:
    cdef Vector *vector = <Vector *>load_relaxed_ptr(<void **>&rx.vector)
    if vector != NULL:
        vector_event(vf, vector, EVENT_RX, now)


cdef inline uint32_t rx_queue_of(const VfRun *vf, const RxSet *rx_set,
                                 const Frame *frame) noexcept nogil:
    """The enabled queue a frame belongs to, or num_rx when there is none."""
    cdef uint32_t queue = 0
    if frame.flags & FRAME_HASHED:
        queue = rx_set.lut[frame.hash & 63]
        if queue >= vf.num_rx or not rx_set.enabled[queue >> 6] >> (queue & 63) & 1:
            queue = 0
    if not rx_set.enabled[0] & 1 and queue == 0:
        return vf.num_rx
    return queue


cdef void vf_off(VfRun *vf, Burst *burst, uint32_t mask) noexcept nogil:
    """Nobody listens: the frames count as received and discarded, on queue 0."""
    cdef Batch batch
    cdef RxRun *rx = &vf.rx[0]
    batch.bytes = batch.cast[0] = batch.cast[1] = batch.cast[3] = 0
    spin_lock(&rx.lock)
    while mask:
        rx_discard(rx, &batch, &burst.frames[lowest_bit(mask)], RX_QUEUE_OFF)
        mask &= mask - 1
    rx_count(rx, &batch)
    spin_unlock(&rx.lock)


cdef uint32_t vf_put_spread(VfRun *vf, const RxSet *rx_set, Burst *burst, uint32_t mask,
                            uint32_t how) noexcept nogil:
    """RSS: a second mask per queue.  All rings touched are locked, in ascending order, so that a
    held burst stops at one frame for all of them."""
    cdef uint32_t queues[BURST_FRAMES]     # distinct, ascending
    cdef uint32_t masks[BURST_FRAMES]
    cdef uint32_t room[BURST_FRAMES]
    cdef uint32_t home[BURST_FRAMES]       # frame -> position in `queues`
    cdef uint32_t num = 0, left = mask, accepted = 0, queue, i, j, need, limit = 0xFFFFFFFF
    cdef Frame *frame
    cdef RxRun *rx
    cdef bint moved
    while left:
        i = <uint32_t>lowest_bit(left)
        left &= left - 1
        queue = rx_queue_of(vf, rx_set, &burst.frames[i])
        if queue == vf.num_rx:
            vf_off(vf, burst, <uint32_t>1 << i)
            accepted |= <uint32_t>1 << i
            continue
        j = num
        while j > 0 and queues[j - 1] >= queue:
            j -= 1
        if j == num or queues[j] != queue:
            memmove(&queues[j + 1], &queues[j], (num - j) * sizeof(uint32_t))
            memmove(&masks[j + 1], &masks[j], (num - j) * sizeof(uint32_t))
            queues[j] = queue
            masks[j] = 0
            num += 1
        masks[j] |= <uint32_t>1 << i
    mask &= ~accepted
    for j in range(num):
        spin_lock(&vf.rx[queues[j]].lock)
    if not how & PUT_DROP:
        for j in range(num):
            room[j] = rx_room(&vf.rx[queues[j]])
            left = masks[j]
            while left:
                home[lowest_bit(left)] = j
                left &= left - 1
        left = mask
        while left:
            i = <uint32_t>lowest_bit(left)
            left &= left - 1
            frame = &burst.frames[i]
            rx = &vf.rx[queues[home[i]]]
            need = rx_need(rx, frame, rx_strip(rx_set, frame))
            if need > room[home[i]] and not rx.fault:
                # This one may be delivered in part, nothing behind it.
                limit = <uint32_t>(((<uint64_t>2) << i) - 1)
                break
            room[home[i]] -= need if need < room[home[i]] else room[home[i]]
    for j in range(num):
        rx = &vf.rx[queues[j]]
        moved = False
        accepted |= rx_put(vf, rx, rx_set, burst, masks[j] & limit, how, &moved)
        spin_unlock(&rx.lock)
        if moved:
            rx_announce(vf, rx, burst.now_ns)
    return accepted


cdef uint32_t vf_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil:
    cdef VfRun *vf = <VfRun *>sink
    cdef const RxSet *rx_set = <const RxSet *>load_acquire_ptr(<void **>&vf.rx_set)
    cdef uint32_t accepted
    cdef RxRun *rx
    cdef bint moved = False
    if not rx_set.any or not load_relaxed_u32(&vf.bus_master):
        vf_off(vf, burst, mask)
        return mask
    if rx_set.hena or vf.judge or rx_set.strip:
        burst_judge(burst, mask, rx_set.key, rx_set.hena, vf.judge)
    if rx_set.any > 1 or not rx_set.enabled[0] & 1:
        return vf_put_spread(vf, rx_set, burst, mask, how)
    rx = &vf.rx[0]
    spin_lock(&rx.lock)
    accepted = rx_put(vf, rx, rx_set, burst, mask, how, &moved)
    spin_unlock(&rx.lock)
    if moved:
        rx_announce(vf, rx, burst.now_ns)
    return accepted
