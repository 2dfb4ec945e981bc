"""Tx rings as Sources: descriptors into frames, heads copied before they are judged, writeback."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from emuiavf._atomic cimport (
    load_acquire_ptr, load_acquire_u32, load_relaxed_ptr, load_relaxed_u32, load_relaxed_u64,
    store_release_u64, store_seq_u32,
)
from emuiavf._bits cimport prefetch_read
from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemMap, mem_find, mem_translate
from emuiavf.datapath._frame cimport (
    BURST_BYTES, BURST_FRAMES, BURST_SEGMENTS, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO,
    FRAME_BROADCAST, FRAME_DROP, FRAME_HEAD, FRAME_HEADROOM, FRAME_MAX_LEN, FRAME_MAX_SEGMENTS,
    FRAME_MAX_TSO, FRAME_MIN_LEN, FRAME_MULTICAST, L4_NONE, TX_BROADCAST, TX_BYTES, TX_ERRORS,
    TX_MALICIOUS, TX_MULTICAST, TX_PACKETS, TX_SEGMENTS, TX_UNICAST, Burst, Frame, Segment, Source,
)
from emuiavf.datapath._offload cimport frame_check_request, frame_copy
from emuiavf._ring_state cimport (
    EVENT_TX, FAULT_ADDRESS, FAULT_CHAIN, FAULT_LENGTH, FAULT_NONE, FAULT_RING, FAULT_TAIL,
    FAULT_TYPE, RingState, TXC_IL2TAG2, TXC_MSS_SHIFT, TXC_TSO, TXD_BUFSZ_SHIFT, TXD_DTYPE_CONTEXT,
    TXD_DTYPE_DATA, TXD_DTYPE_DONE, TXD_EOP, TXD_IIPT_SHIFT, TXD_IL2TAG1, TXD_IPLEN_SHIFT,
    TXD_L2TAG1_SHIFT, TXD_L4LEN_SHIFT, TXD_L4T_SHIFT, TXD_MACLEN_SHIFT, TXD_RS, TX_DESC_SIZE,
    TxRun, Vector,
)
from emuiavf._ring_irq cimport vector_event


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept
    void event_signal(int fd) noexcept


cdef enum:
    VLAN_TAG = 4
    # Frame.flags, only between the two passes of tx_take.
    FRAME_PLAIN = 1 << 31
    # Bits of qword 1 that decide whether a Tx descriptor is a whole frame without requests: DTYPE,
    # EOP, IL2TAG1, IIPT, L4T.
    TXD_NOT_PLAIN = 0xF | TXD_EOP | TXD_IL2TAG1 | 3 << TXD_IIPT_SHIFT | 3 << TXD_L4T_SHIFT

cdef uint64_t BROADCAST = 0xFFFFFFFFFFFF


cdef void tx_fault(TxRun *tx, uint32_t fault) noexcept nogil:
    if tx.fault == FAULT_NONE:
        tx.source.row[TX_MALICIOUS] += 1
        # The frame that is not sent for it: the card's driver sees an error (GET_STATS).
        tx.source.row[TX_ERRORS] += 1
        store_seq_u32(&tx.fault, fault)
        event_signal(tx.vf.fault_fd)


cdef int tx_split(TxRun *tx, Burst *burst, uint64_t iova, uint32_t length) noexcept nogil:
    """Segments for a buffer that crosses extents; returns 0 when a byte of it is not readable."""
    cdef const Extent *extent
    cdef uint64_t now
    while length:
        extent = mem_find(tx.map, iova)
        if extent == NULL or not extent.prot & MEM_READ or burst.num_segs >= BURST_SEGMENTS:
            return 0
        now = extent.size - (iova - extent.iova)
        if now > length:
            now = length
        burst.segs[burst.num_segs].data = extent.host + (iova - extent.iova)
        burst.segs[burst.num_segs].len = <uint32_t>now
        burst.num_segs += 1
        iova += now
        length -= <uint32_t>now
    return 1


cdef int tx_decode(TxRun *tx, Burst *burst, Frame *frame, uint32_t slot,
                   uint32_t avail) noexcept nogil:
    """One frame from the descriptors at `slot`; returns how many they are, 0 if not all are there
    (or the burst is full), or -1 after a fault."""
    cdef const uint64_t *desc
    cdef uint64_t address, word, first = 0, context = 0, tags = 0
    cdef uint32_t used = 0, length, total = 0, segs = burst.num_segs, l4
    cdef uint32_t ring_len = tx.state.ring_len
    cdef bint begun = False
    cdef uint8_t *host
    while True:
        if used == avail:
            # A driver never splits a frame over two doorbells; one that fills the ring never ends.
            if avail >= ring_len - 1 or used > FRAME_MAX_SEGMENTS:
                tx_fault(tx, FAULT_CHAIN)
                return -1
            burst.num_segs = segs
            return 0
        desc = <const uint64_t *>(tx.ring + slot * TX_DESC_SIZE)
        address = load_relaxed_u64(desc)
        word = load_relaxed_u64(desc + 1)
        used += 1
        slot += 1
        if slot == ring_len:
            slot = 0
        if word & 0xF == TXD_DTYPE_CONTEXT and used == 1:
            context = word
            tags = address
            continue
        if word & 0xF != TXD_DTYPE_DATA:
            tx_fault(tx, FAULT_TYPE)
            return -1
        length = <uint32_t>(word >> TXD_BUFSZ_SHIFT) & 0x3FFF
        if length == 0:
            tx_fault(tx, FAULT_LENGTH)
            return -1
        if not begun:
            begun = True
            first = word
        total += length
        if used > FRAME_MAX_SEGMENTS or total > FRAME_MAX_TSO:
            tx_fault(tx, FAULT_CHAIN)
            return -1
        if burst.num_segs >= BURST_SEGMENTS:
            burst.num_segs = segs
            return 0
        host = mem_translate(tx.map, &tx.hint, address, length, MEM_READ)
        if host != NULL:
            burst.segs[burst.num_segs].data = host
            burst.segs[burst.num_segs].len = length
            burst.num_segs += 1
        elif not tx_split(tx, burst, address, length):
            if burst.num_segs >= BURST_SEGMENTS and segs != 0:
                burst.num_segs = segs
                return 0
            tx_fault(tx, FAULT_ADDRESS)
            return -1
        if word & TXD_EOP:
            break
    prefetch_read(burst.segs[segs].data)
    frame.segs = &burst.segs[segs]
    frame.num_segs = <uint16_t>(burst.num_segs - segs)
    frame.len = total
    frame.cursor = 0
    frame.hash = 0
    frame.ptype = 1
    frame.mss = 0
    frame.flags = 0
    l4 = <uint32_t>(first >> TXD_L4T_SHIFT) & 3
    frame.l4_proto = <uint8_t>l4
    frame.l2_len = <uint16_t>((first >> TXD_MACLEN_SHIFT) & 0x7F) * 2
    frame.l3_len = <uint16_t>((first >> TXD_IPLEN_SHIFT) & 0x7F) * 4
    frame.l4_len = <uint16_t>((first >> TXD_L4LEN_SHIFT) & 0xF) * 4
    if (first >> TXD_IIPT_SHIFT) & 3 == 3:
        frame.flags |= FRAME_ASK_IP_CSUM
    if l4 != L4_NONE:
        frame.flags |= FRAME_ASK_L4_CSUM
    if context & TXC_TSO:
        frame.flags |= FRAME_ASK_TSO
        frame.mss = <uint16_t>(context >> TXC_MSS_SHIFT)
    # Both tags travel in one word until the head is there: inner in the low half.
    frame.vlan_tci = <uint16_t>(first >> TXD_L2TAG1_SHIFT)
    frame.vlan_tpid = <uint16_t>(tags >> 32)
    frame.next_slot = <uint16_t>slot
    if first & TXD_IL2TAG1:
        frame.hash |= 1
    if context & TXC_IL2TAG2:
        frame.hash |= 2
    return used


cdef inline void _tag(Frame *frame, uint16_t tci) noexcept nogil:
    """Insert a VLAN tag of TPID 0x8100 behind the addresses of the private head."""
    memmove(frame.head - VLAN_TAG, frame.head, 12)
    frame.head -= VLAN_TAG
    frame.head[12] = 0x81
    frame.head[13] = 0x00
    frame.head[14] = <uint8_t>(tci >> 8)
    frame.head[15] = <uint8_t>tci
    frame.head_len += VLAN_TAG
    frame.len += VLAN_TAG
    frame.l2_len += VLAN_TAG


cdef void tx_head(Burst *burst, int index) noexcept nogil:
    """Copy the head of a frame out of guest memory and judge what its sender asked for."""
    cdef Frame *frame = &burst.frames[index]
    cdef uint8_t *head = burst.heads[index] + FRAME_HEADROOM
    cdef uint32_t want = frame.len if frame.len < FRAME_HEAD else FRAME_HEAD
    cdef uint32_t got = 0, now, tags = frame.hash
    cdef uint16_t inner = frame.vlan_tci, outer = frame.vlan_tpid
    cdef uint64_t word = 0
    frame.head = head
    frame.head_len = <uint16_t>want
    frame.hash = 0
    while got < want:
        now = frame.segs.len
        if now > want - got:
            now = want - got
            frame_copy(head + got, frame.segs.data, now)
            frame.segs.data += now
            frame.segs.len -= now
        else:
            frame_copy(head + got, frame.segs.data, now)
            frame.segs += 1
            frame.num_segs -= 1
        got += now
    if frame.len < FRAME_MIN_LEN or (
            frame.len > FRAME_MAX_LEN and not frame.flags & FRAME_ASK_TSO):
        frame.flags = FRAME_DROP
        frame.dst_mac = 0
        return
    memcpy(&word, head, 8)
    frame.dst_mac = word & BROADCAST
    if word & 1:
        frame.flags |= FRAME_MULTICAST
        if frame.dst_mac == BROADCAST:
            frame.flags |= FRAME_BROADCAST
    if tags:
        # On the wire: addresses, L2TAG2, L2TAG1, the rest.
        if tags & 1:
            _tag(frame, inner)
        if tags & 2:
            _tag(frame, outer)
    if frame.flags & (FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_ASK_TSO):
        if frame_check_request(frame):
            frame.flags |= FRAME_DROP


cdef inline void tx_head_plain(Burst *burst, int index) noexcept nogil:
    """`tx_head` for what `tx_plain` has found, when the frame is no longer than a head."""
    cdef Frame *frame = &burst.frames[index]
    cdef uint8_t *head = burst.heads[index] + FRAME_HEADROOM
    cdef uint64_t word
    if not frame.flags & FRAME_PLAIN or frame.len > FRAME_HEAD:
        frame.flags &= ~<uint32_t>FRAME_PLAIN
        tx_head(burst, index)
        return
    frame_copy(head, frame.segs.data, frame.len)
    memcpy(&word, head, 8)
    frame.head = head
    frame.head_len = <uint16_t>frame.len
    frame.num_segs = 0
    frame.flags = 0
    frame.dst_mac = word & BROADCAST
    if word & 1:
        frame.flags = FRAME_MULTICAST
        if frame.dst_mac == BROADCAST:
            frame.flags = FRAME_MULTICAST | FRAME_BROADCAST


cdef inline int tx_plain(TxRun *tx, Burst *burst, Frame *frame, uint32_t slot) noexcept nogil:
    """The common frame: one descriptor that asks for nothing.  Returns 0 when it is another."""
    cdef const uint64_t *desc = <const uint64_t *>(tx.ring + slot * TX_DESC_SIZE)
    cdef uint64_t word = load_relaxed_u64(desc + 1)
    cdef uint32_t length = <uint32_t>(word >> TXD_BUFSZ_SHIFT) & 0x3FFF
    cdef Segment *segment = &burst.segs[burst.num_segs]
    cdef uint8_t *host
    if word & TXD_NOT_PLAIN != TXD_EOP or length - FRAME_MIN_LEN > FRAME_MAX_LEN - FRAME_MIN_LEN:
        return 0
    host = mem_translate(tx.map, &tx.hint, load_relaxed_u64(desc), length, MEM_READ)
    if host == NULL or burst.num_segs >= BURST_SEGMENTS:
        return 0
    prefetch_read(host)
    segment.data = host
    segment.len = length
    burst.num_segs += 1
    frame.segs = segment
    frame.num_segs = 1
    frame.len = length
    frame.flags = FRAME_PLAIN
    frame.hash = 0
    frame.cursor = 0
    frame.ptype = 1
    frame.l4_proto = L4_NONE
    slot += 1
    frame.next_slot = <uint16_t>(slot if slot != tx.state.ring_len else 0)
    return 1


cdef int tx_take(Source *source, Burst *burst) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef RingState *state = tx.state
    cdef const MemMap *map
    cdef uint32_t tail, slot, avail, total = 0
    cdef int used, count = 0, i
    if not load_acquire_u32(&tx.enabled) or tx.fault or not load_relaxed_u32(&tx.vf.bus_master):
        return 0
    # Acquire: descriptors below the tail are read after the tail itself.
    tail = load_acquire_u32(tx.tail)
    slot = state.head
    if tail == slot:
        return 0
    if tail >= state.ring_len:
        tx_fault(tx, FAULT_TAIL)
        return 0
    map = <const MemMap *>load_acquire_ptr(<void **>tx.vf.map)
    tx.map = map
    if map.generation != tx.map_seen:
        tx.map_seen = map.generation
        tx.ring_hint = NULL
        tx.hint = NULL
    tx.ring = mem_translate(map, &tx.ring_hint, state.dma_ring_addr,
                            <uint64_t>state.ring_len * TX_DESC_SIZE, MEM_READ | MEM_WRITE)
    if tx.ring == NULL:
        tx_fault(tx, FAULT_RING)
        return 0
    avail = tail - slot if tail > slot else tail + state.ring_len - slot
    burst.num_segs = 0
    while count < BURST_FRAMES and avail and total < BURST_BYTES:
        used = tx_plain(tx, burst, &burst.frames[count], slot)
        if used == 0:
            used = tx_decode(tx, burst, &burst.frames[count], slot, avail)
            if used <= 0:
                break
        avail -= <uint32_t>used
        slot = burst.frames[count].next_slot
        total += burst.frames[count].len
        count += 1
    if count:
        burst.frames[0].cursor = state.cursor
    for i in range(count):
        tx_head_plain(burst, i)
    tx.taken = <uint32_t>count
    return count


cdef void tx_done(Source *source, Burst *burst, int count) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef RingState *state = tx.state
    cdef Frame *frame
    cdef uint64_t bytes = 0, unicast = 0, multicast = 0, broadcast = 0, errors = 0, segments = 0
    cdef uint64_t packets, word
    cdef uint64_t *desc
    cdef Vector *vector
    cdef uint32_t slot = state.head, end, header, reported = 0
    cdef int i
    if <uint32_t>count < tx.taken:
        state.cursor = burst.frames[count].cursor
    else:
        state.cursor = 0
    if count == 0:
        return
    for i in range(count):
        frame = &burst.frames[i]
        if frame.flags & FRAME_DROP:
            errors += 1
            continue
        packets = 1
        bytes += frame.len
        if frame.flags & FRAME_ASK_TSO:
            header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
            packets = (frame.len - header + frame.mss - 1) // frame.mss
            bytes += (packets - 1) * header
            segments += packets
        if not frame.flags & FRAME_MULTICAST:
            unicast += packets
        elif frame.flags & FRAME_BROADCAST:
            broadcast += packets
        else:
            multicast += packets
    end = burst.frames[count - 1].next_slot
    while slot != end:
        desc = <uint64_t *>(tx.ring + slot * TX_DESC_SIZE) + 1
        word = load_relaxed_u64(desc)
        if word & 0xF == TXD_DTYPE_DATA and word & TXD_RS:
            # Release: the data was read before the driver may use its buffers again.
            store_release_u64(desc, TXD_DTYPE_DONE)
            reported = 1
        slot += 1
        if slot == state.ring_len:
            slot = 0
    state.head = end
    source.row[TX_BYTES] += bytes
    source.row[TX_UNICAST] += unicast
    source.row[TX_MULTICAST] += multicast
    source.row[TX_BROADCAST] += broadcast
    source.row[TX_ERRORS] += errors
    source.row[TX_SEGMENTS] += segments
    source.row[TX_PACKETS] += unicast + multicast + broadcast
    if reported:
        vector = <Vector *>load_relaxed_ptr(<void **>&tx.vector)
        if vector != NULL:
            vector_event(tx.vf, vector, EVENT_TX, burst.now_ns)
