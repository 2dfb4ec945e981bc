"""Descriptor rings of one VF: Tx rings are Sources, the VF as a whole is the sink of its Rx rings.

The loops below see hostile memory: every descriptor is loaded once and the copy is judged, every
address goes through mem_translate, every chain has a bound.  What is malformed stops its queue
(Fault), counts a malicious-driver event and signals the fault eventfd; the rest goes on.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from emuiavf._atomic cimport (
    add_relaxed_u64, exchange_u32, load_acquire_ptr, load_acquire_u32, load_relaxed_u32,
    load_relaxed_u64, load_seq_u32, or_u32, spin_lock, spin_unlock, store_relaxed_u64,
    store_release_u32, store_release_u64, store_seq_ptr, store_seq_u32, swap_if_u32,
)
from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemMap, MemTable, mem_find, mem_translate
from emuiavf.datapath._copy cimport Gather, emit_frame, emit_segment, gather_begin
from emuiavf.datapath._endpoint cimport Endpoint, SourceRef
from emuiavf.datapath._frame cimport (
    BURST_BYTES, BURST_FRAMES, BURST_SEGMENTS, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO,
    FRAME_BROADCAST, FRAME_DROP, FRAME_HASHED, FRAME_HEAD, FRAME_HEADROOM, FRAME_IP_BAD,
    FRAME_IPV4, FRAME_IPV6, FRAME_L4_BAD, FRAME_MAX_LEN, FRAME_MAX_SEGMENTS, FRAME_MAX_TSO,
    FRAME_MIN_LEN, FRAME_MULTICAST, FRAME_PARSED, L4_NONE, L4_TCP, L4_UDP, PUT_DROP,
    ROW_COUNTERS, RX_BAD_ADDRESS, RX_BROADCAST, RX_BYTES, RX_CSUM_BAD, RX_DISCARDS, RX_INTERRUPTS,
    RX_MULTICAST, RX_NO_BUFFER, RX_PACKETS, RX_QUEUE_OFF, RX_TOO_LONG, RX_UNICAST, TX_BROADCAST,
    TX_BYTES, TX_ERRORS, TX_MALICIOUS, TX_MULTICAST, TX_PACKETS, TX_SEGMENTS, TX_UNICAST, Burst,
    Frame, FrameSink, Poller, RxFilterTable, Segment, Source,
)
from emuiavf.datapath._offload cimport (
    ToeplitzKey, burst_judge, frame_check_request, frame_copy, toeplitz_prepare,
)
from emuiavf.datapath._switch cimport filter_build

from emuiavf.errors import MemoryFault, StateError


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept
    void event_signal(int fd) noexcept


cdef extern from *:
    """
    static inline int lowest_bit(uint32_t word) { return __builtin_ctz(word); }
    static inline void prefetch_read(const void *p) { __builtin_prefetch(p, 0); }
    static inline void prefetch_write(const void *p) { __builtin_prefetch(p, 1); }
    """
    int lowest_bit(uint32_t word) noexcept nogil
    void prefetch_read(const void *p) noexcept nogil
    void prefetch_write(const void *p) noexcept nogil


cdef enum:
    TX_DESC_SIZE = 16
    RX_DESC_SIZE = 32
    RX_MAX_BUFFERS = 5      # descriptors per frame; drivers reserve room for five
    RX_ITEMS = 32           # deliveries prepared together
    QRX_TAIL = 0x2000
    VFINT_ITRN = 0x2800
    VFINT_DYN_CTLN = 0x3800
    ITR_VECTORS = 16        # from there on the ITRN rows overlap: no moderation
    VLAN_TAG = 4
    # Frame.flags, only between the two passes of tx_take.
    FRAME_PLAIN = 1 << 31
    # What keeps a frame from being delivered by a plain copy of its head.
    FRAME_WORK = FRAME_ASK_TSO | FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM
    # Bits of qword 1 that decide whether a Tx descriptor is a whole frame without requests: DTYPE,
    # EOP, IL2TAG1, IIPT, L4T.
    TXD_NOT_PLAIN = 0xF | TXD_EOP | TXD_IL2TAG1 | 3 << TXD_IIPT_SHIFT | 3 << TXD_L4T_SHIFT

# Software triggers that the guest writes into the mapped word are looked for this often (trap 30).
cdef uint64_t SWEEP_NS = 4_000_000
cdef uint64_t FOREVER = 0xFFFFFFFFFFFFFFFF
cdef uint64_t BROADCAST = 0xFFFFFFFFFFFF

cdef tuple FAULT_TEXT = (
    "", "tail beyond the ring", "descriptor ring is not mapped", "buffer address is not mapped",
    "bad buffer length", "unknown descriptor type", "descriptor chain without an end",
)


# --- interrupts ---------------------------------------------------------------------------------

cdef void vector_fire(VfRun *vf, Vector *vector, uint64_t now, uint64_t *due) noexcept nogil:
    """Announce the vector's events if the guest has armed it and its interval has passed.

    Arming and events meet here: whoever finds both true clears INTENA by compare-and-swap (a plain
    store could eat a re-arm) and fires.  `due` is lowered to when an interval ends.
    """
    cdef uint32_t word, events, index, interval = 0, wait
    cdef int tries
    events = load_seq_u32(&vector.events)
    if events == 0:
        return
    if vector.fd < 0:
        # A vector without an eventfd drops its events.
        exchange_u32(&vector.events, 0)
        return
    for tries in range(8):
        word = load_seq_u32(vector.ctl)
        if not word & DYN_INTENA:
            return
        index = (word & DYN_ITR_MASK) >> DYN_ITR_SHIFT
        if index != 3:
            store_release_u32(vector.itr[index], (word >> DYN_INTERVAL_SHIFT) & 0xFFF)
        if not events & EVENT_NOW:
            # Both directions pending: the shorter interval counts.
            wait = 0xFFFFFFFF
            if events & EVENT_RX:
                wait = 0 if vector.rx_itr > 2 else load_relaxed_u32(vector.itr[vector.rx_itr])
            if events & EVENT_TX:
                interval = 0 if vector.tx_itr > 2 else load_relaxed_u32(vector.itr[vector.tx_itr])
                if interval < wait:
                    wait = interval
            wait = (wait & 0xFFF) * 2000
            if now - vector.last_ns < wait:
                if vector.last_ns + wait < due[0]:
                    due[0] = vector.last_ns + wait
                return
        events = exchange_u32(&vector.events, 0)
        if events == 0:
            return
        if swap_if_u32(vector.ctl, word,
                       (word & ~<uint32_t>(DYN_INTENA | DYN_SWINT_TRIG)) | DYN_ITR_NONE):
            vector.last_ns = now
            event_signal(vector.fd)
            add_relaxed_u64(vector.row + RX_INTERRUPTS, 1)
            return
        or_u32(&vector.events, events)


cdef void vector_event(VfRun *vf, Vector *vector, uint32_t event, uint64_t now) noexcept nogil:
    """Something happened that `vector` announces; what cannot be announced now stays waiting."""
    cdef uint64_t due = FOREVER
    or_u32(&vector.events, event)
    vector_fire(vf, vector, now, &due)
    if load_relaxed_u32(&vector.events):
        store_seq_u32(&vf.waiting, 1)
        # The worker that polls this VF may be another one, and asleep.
        if vf.poller.napping != NULL and load_seq_u32(vf.poller.napping):
            event_signal(vf.poller.wake_fd)


cdef uint64_t vf_poll(Poller *poller, uint64_t now) noexcept nogil:
    cdef VfRun *vf = (<VfPoller *>poller).vf
    cdef uint64_t due = FOREVER
    cdef uint32_t v, word
    cdef Vector *vector
    if now >= vf.next_sweep_ns:
        vf.next_sweep_ns = now + SWEEP_NS
        for v in range(vf.num_vectors):
            vector = &vf.vectors[v]
            word = load_relaxed_u32(vector.ctl)
            if word & DYN_SWINT_TRIG and vector.fd >= 0:
                or_u32(&vector.events, EVENT_NOW)
                store_seq_u32(&vf.waiting, 1)
    if not load_relaxed_u32(&vf.waiting):
        return FOREVER
    # Cleared before looking: an event that comes meanwhile sets it again.
    store_seq_u32(&vf.waiting, 0)
    for v in range(vf.num_vectors):
        vector = &vf.vectors[v]
        if load_relaxed_u32(&vector.events):
            vector_fire(vf, vector, now, &due)
            if load_relaxed_u32(&vector.events):
                store_seq_u32(&vf.waiting, 1)
    return due


# --- transmit -----------------------------------------------------------------------------------

cdef void tx_fault(TxRun *tx, uint32_t fault) noexcept nogil:
    if tx.fault == FAULT_NONE:
        tx.source.row[TX_MALICIOUS] += 1
        store_seq_u32(&tx.fault, fault)
        event_signal(tx.vf.fault_fd)


cdef int tx_split(TxRun *tx, Burst *burst, uint64_t iova, uint32_t length) noexcept nogil:
    """Segments for a buffer that crosses extents; returns 0 when some byte of it is not readable."""
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
    if map != tx.map:
        tx.map = map
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
    if reported and tx.vector != NULL:
        vector_event(tx.vf, tx.vector, EVENT_TX, burst.now_ns)


# --- receive ------------------------------------------------------------------------------------

# One delivery that has its buffers: a frame, or one segment of a large frame.
cdef struct Item:
    Frame *frame
    uint32_t at            # payload offset of a segment
    uint32_t length        # bytes delivered, tag stripped
    uint32_t first         # of its pieces
    uint32_t pieces
    uint32_t strip


# A group of deliveries to one ring: prepared together, copied, then written back in order.
cdef struct Batch:
    Item items[RX_ITEMS]
    Segment pieces[RX_ITEMS * RX_MAX_BUFFERS]
    uint32_t num_items
    uint32_t num_pieces
    uint8_t *ring
    uint32_t slot          # next descriptor to be used
    uint32_t room
    uint32_t judge
    uint64_t bytes
    uint64_t cast[4]       # frames by the two flag bits: 0 unicast, 1 multicast, 3 broadcast
    uint64_t packets
    uint64_t csum_bad


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


cdef inline uint64_t rx_status(const Frame *frame, uint32_t verdict) noexcept nogil:
    """Qword 1 of the writeback without EOF, length and L2TAG1P; no branch on frame contents."""
    cdef uint64_t flags = frame.flags, cast = (flags // FRAME_MULTICAST) & 3
    # The two flag bits make 0, 1, 3; the field wants 0, 1, 2.
    return (RXD_DD
            | (cast - (cast >> 1)) << RXD_UMBCAST_SHIFT
            | <uint64_t>((flags & (FRAME_IPV4 | FRAME_IPV6)) != 0) * RXD_L3L4P
            | <uint64_t>((flags & FRAME_HASHED) != 0) * RXD_RSS_VALID
            | <uint64_t>((flags & FRAME_IP_BAD) != 0) << RXD_IPE_SHIFT
            | <uint64_t>((verdict & FRAME_L4_BAD) != 0) << RXD_L4E_SHIFT
            | <uint64_t>frame.ptype << RXD_PTYPE_SHIFT)


cdef inline void rx_write(uint64_t *desc, uint64_t low, uint64_t status) noexcept nogil:
    """All 32 bytes: stale ones would read as a mark or a timestamp (trap 24).  DD goes last."""
    store_relaxed_u64(desc + 2, 0)
    store_relaxed_u64(desc + 3, 0)
    store_relaxed_u64(desc, low)
    store_release_u64(desc + 1, status)


cdef uint32_t rx_plain(VfRun *vf, RxRun *rx, Batch *batch, Burst *burst, uint32_t mask,
                       uint32_t longest) noexcept nogil:
    """The first frames of `mask` as long as each is one copy of a head into one buffer.

    Three passes, so that the misses of one frame overlap those of the next; returns the delivered
    frames.
    """
    cdef uint8_t *buffers[BURST_FRAMES]
    cdef uint32_t numbers[BURST_FRAMES]
    cdef uint32_t count = 0, slot = rx.state.head, ring_len = rx.state.ring_len, i, accepted = 0
    cdef uint8_t *host
    cdef uint64_t status
    cdef Frame *frame
    while mask and count < batch.room:
        i = <uint32_t>lowest_bit(mask)
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
        mask &= mask - 1
        slot += 1
        if slot == ring_len:
            slot = 0
    for i in range(count):
        frame = &burst.frames[numbers[i]]
        frame_copy(buffers[i], frame.head, frame.len)
    slot = rx.state.head
    for i in range(count):
        frame = &burst.frames[numbers[i]]
        accepted |= <uint32_t>1 << numbers[i]
        status = rx_status(frame, frame.flags)
        batch.csum_bad += (status >> RXD_IPE_SHIFT & 3) != 0
        rx_account(batch, frame, frame.len)
        rx_write(<uint64_t *>(batch.ring + slot * RX_DESC_SIZE), <uint64_t>frame.hash << 32,
                 status | RXD_EOF | <uint64_t>frame.len << RXD_LENGTH_SHIFT)
        slot += 1
        if slot == ring_len:
            slot = 0
    rx.state.head = slot
    batch.slot = slot
    batch.room -= count
    batch.packets += count
    return accepted


cdef void rx_flush(RxRun *rx, Batch *batch) noexcept nogil:
    """Copy every prepared delivery, then hand the descriptors to the driver in ring order."""
    cdef Item *item
    cdef Frame *frame
    cdef Frame *open_frame = NULL
    cdef Gather gather
    cdef uint64_t words[RX_ITEMS]
    cdef uint64_t word, low
    cdef uint32_t i, p, verdict, slot = rx.state.head, header
    for i in range(batch.num_items):
        item = &batch.items[i]
        frame = item.frame
        verdict = 0
        if frame.flags & FRAME_ASK_TSO:
            if frame != open_frame:
                header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
                gather_begin(&gather, frame, header + item.at)
                open_frame = frame
            emit_segment(frame, item.at, &gather, item.strip, &batch.pieces[item.first])
        else:
            verdict = emit_frame(frame, item.strip, &batch.pieces[item.first], batch.judge)
        word = rx_status(frame, verdict)
        if item.strip:
            word |= RXD_L2TAG1P
        batch.csum_bad += (word >> RXD_IPE_SHIFT & 3) != 0
        words[i] = word
    for i in range(batch.num_items):
        item = &batch.items[i]
        frame = item.frame
        word = words[i]
        low = <uint64_t>frame.hash << 32
        if item.strip:
            low |= <uint64_t>frame.vlan_tci << 16
        for p in range(item.pieces):
            if p + 1 == item.pieces:
                word |= RXD_EOF
            rx_write(<uint64_t *>(batch.ring + slot * RX_DESC_SIZE), low,
                     word | <uint64_t>batch.pieces[item.first + p].len << RXD_LENGTH_SHIFT)
            slot += 1
            if slot == rx.state.ring_len:
                slot = 0
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
    cdef uint32_t count = rx_segments(frame), i, header, length
    for i in range(count):
        length = frame.len
        if frame.flags & FRAME_ASK_TSO:
            header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
            length = frame.len - header - frame.cursor
            length = header + (frame.mss if length > frame.mss else length)
            frame.cursor += frame.mss
        rx_account(batch, frame, length)
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
    cdef uint32_t size = rx.state.databuffer_size, each
    if frame.flags & FRAME_ASK_TSO:
        each = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len + frame.mss
        return rx_segments(frame) * ((each + size - 1) // size)
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
    if map != rx.map:
        rx.map = map
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
            longest = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len + frame.mss
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
        if moved and rx.vector != NULL:
            vector_event(vf, rx.vector, EVENT_RX, burst.now_ns)
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
    if moved and rx.vector != NULL:
        vector_event(vf, rx.vector, EVENT_RX, burst.now_ns)
    return accepted


# --- control ------------------------------------------------------------------------------------

cdef class Vf(Endpoint):
    """The data-path half of one VF.  All methods are control's; none waits.

    What a method takes away may still be in use by a worker until the engine's next grace; then
    `reclaim()` frees it.

    mem: the guest's memory.  doorbells: a writable buffer of at least 0x4000 bytes laid out as
    pages 0 to 3 of BAR0.  rows: uint64 array (2 * max_queue_pairs, 16), receive rows first.
    fault_fd: eventfd, signalled when `take_faults()` has something to tell.
    """

    def __cinit__(self, *args, **kwargs):
        self.states = NULL
        self.rx = NULL
        self.tx = NULL
        memset(&self.run, 0, sizeof(VfRun))
        self._retired = []

    def __init__(self, str name, MemTable mem, doorbells, rows, int max_queue_pairs,
                 int num_vectors, int fault_fd, bint polled=True, bint judge=True):
        cdef uint64_t[:, ::1] table = rows
        cdef Py_buffer view
        cdef int i, n = max_queue_pairs
        if not 1 <= n <= 256 or not 1 <= num_vectors <= 65:
            raise ValueError(f"{n} queue pairs, {num_vectors} vectors: at most 256 and 65")
        if table.shape[0] < 2 * n or table.shape[1] != ROW_COUNTERS:
            raise ValueError(f"rows: shape {table.shape[0]}x{table.shape[1]}, needs {2 * n}x16")
        PyObject_GetBuffer(doorbells, &view, PyBUF_WRITABLE)
        self._page = <uint8_t *>view.buf
        size = view.len
        # The memoryview keeps the buffer; the raw pointer lives as long as it does.
        self._doorbells = memoryview(doorbells)
        PyBuffer_Release(&view)
        if size < 0x4000:
            raise ValueError(f"doorbells: {size} bytes, needs {0x4000}")
        self.name = name
        self.polled = polled
        self.max_queue_pairs = n
        self.num_vectors = num_vectors
        self._mem = mem
        self._rows = rows
        self.states = <RingState *>calloc(2 * n, sizeof(RingState))
        self.rx = <RxRun *>calloc(n, sizeof(RxRun))
        self.tx = <TxRun *>calloc(n, sizeof(TxRun))
        self.run.vectors = <Vector *>calloc(num_vectors, sizeof(Vector))
        self.run.rx_set = <RxSet *>calloc(1, sizeof(RxSet))
        if (self.states == NULL or self.rx == NULL or self.tx == NULL or self.run.vectors == NULL
                or self.run.rx_set == NULL):
            raise MemoryError
        self.run.sink.put = vf_put
        self.run.map = &mem.mem_map
        self.run.rx = self.rx
        self.run.num_rx = n
        self.run.num_vectors = num_vectors
        self.run.judge = judge
        self.run.fault_fd = fault_fd
        self.run.row = &table[0, 0]
        self.run.poller = &self.vf_poller.poller
        self.vf_poller.poller.poll = vf_poll
        self.vf_poller.vf = &self.run
        self.sink = &self.run.sink
        self.poller = &self.vf_poller.poller
        self._refs = []
        for i in range(n):
            self.rx[i].state = &self.states[i]
            self.rx[i].tail = <uint32_t *>(self._page + QRX_TAIL) + i
            self.rx[i].row = &table[i, 0]
            self.tx[i].source.take = tx_take
            self.tx[i].source.done = tx_done
            self.tx[i].source.fd = -1
            self.tx[i].source.row = &table[n + i, 0]
            self.tx[i].state = &self.states[n + i]
            self.tx[i].tail = <uint32_t *>self._page + i
            self.tx[i].vf = &self.run
            self._refs.append(SourceRef.of(&self.tx[i].source, self, i))
        for i in range(num_vectors):
            self._init_vector(i)

    def _init_vector(self, int i):
        cdef Vector *vector = &self.run.vectors[i]
        cdef int k
        vector.fd = -1
        vector.rx_itr = vector.tx_itr = 3
        vector.row = self.rx[min(max(i - 1, 0), self.max_queue_pairs - 1)].row
        if i == 0:
            vector.ctl = &self.vector0_words[0]
        else:
            vector.ctl = <uint32_t *>(self._page + VFINT_DYN_CTLN) + (i - 1)
        for k in range(3):
            if i == 0:
                vector.itr[k] = &self.vector0_words[1 + k]
            elif i <= ITR_VECTORS:
                vector.itr[k] = <uint32_t *>(self._page + VFINT_ITRN + 0x40 * k) + (i - 1)
            else:
                vector.itr[k] = &self.no_itr

    def __dealloc__(self):
        self.reclaim()
        if self.run.rx_set != NULL:
            free(<void *>self.run.rx_set.key)
        free(self.run.rx_set)
        free(<void *>self.run.sink.filter)
        free(self.run.vectors)
        free(self.states)
        free(self.rx)
        free(self.tx)

    cpdef list active_sources(self):
        return [ref for i, ref in enumerate(self._refs) if self.tx[<int>i].enabled]

    cdef int _index(self, int index) except -1:
        if not 0 <= index < self.max_queue_pairs:
            raise ValueError(f"queue {index}: {self.max_queue_pairs} queue pairs")
        return index

    cdef Vector *_vector(self, int vector) except NULL:
        if not 0 <= vector < self.num_vectors:
            raise ValueError(f"vector {vector}: {self.num_vectors} vectors")
        return &self.run.vectors[vector]

    cdef RxSet *_new_set(self) except NULL:
        """A copy of the published set, to be changed and published."""
        cdef RxSet *fresh = <RxSet *>calloc(1, sizeof(RxSet))
        if fresh == NULL:
            raise MemoryError
        fresh[0] = self.run.rx_set[0]
        return fresh

    cdef void _publish_set(self, RxSet *fresh):
        self._retired.append(<size_t>self.run.rx_set)
        store_seq_ptr(<void **>&self.run.rx_set, fresh)

    def configure_tx(self, queue) -> None:
        """Lay out a Tx ring that is not enabled; head and tail start at 0 (trap 22)."""
        cdef int i = self._index(queue.index)
        cdef RingState *state = self.tx[i].state
        if self.tx[i].enabled:
            raise StateError(f"Tx queue {i} is enabled")
        self._configure(state, queue)
        self.tx[i].fault = FAULT_NONE
        store_release_u32(self.tx[i].tail, 0)

    def configure_rx(self, queue) -> None:
        """Lay out a Rx ring that is not enabled; head starts at 0, the tail is kept (trap 22)."""
        cdef int i = self._index(queue.index)
        cdef RingState *state = self.rx[i].state
        if self.rx_enabled >> i & 1:
            raise StateError(f"Rx queue {i} is enabled")
        if queue.writeback != 1:
            raise ValueError(f"RXDID {queue.writeback}: only 1 is served")
        if queue.databuffer_size < 128:
            raise ValueError(f"databuffer_size={queue.databuffer_size}, at least 128")
        self._configure(state, queue)
        state.databuffer_size = queue.databuffer_size
        state.max_pkt_size = queue.max_pkt_size
        state.writeback = queue.writeback
        self.rx[i].fault = FAULT_NONE

    cdef int _configure(self, RingState *state, object queue) except -1:
        if not 8 <= queue.ring_len <= 8160:
            raise ValueError(f"ring_len={queue.ring_len}, 8 to 8160")
        state.dma_ring_addr = queue.dma_ring_addr
        state.ring_len = queue.ring_len
        state.head = 0
        state.cursor = 0
        state.configured = 1
        state.generation += 1
        return 0

    def _check_ring(self, str what, int i, uint64_t address, uint64_t size):
        cdef const Extent *hint = NULL
        if mem_translate((<MemTable>self._mem).mem_map, &hint, address, size,
                         MEM_READ | MEM_WRITE) == NULL:
            raise MemoryFault(f"{what} queue {i}: ring at IOVA {address:#x}, {size} bytes, is not "
                              "in shared guest memory")

    def enable(self, rx_queues: int, tx_queues: int) -> None:
        """Start the queues of two bitmaps that are configured; others are skipped.

        MemoryFault when a ring is not in mapped memory; then none is started.  The Tx queues are
        served after the engine's next publish.
        """
        cdef RxSet *fresh
        cdef int i
        starts = [[], []]
        for i in range(self.max_queue_pairs):
            if rx_queues >> i & 1 and self.rx[i].state.configured:
                self._check_ring("Rx", i, self.rx[i].state.dma_ring_addr,
                                 <uint64_t>self.rx[i].state.ring_len * RX_DESC_SIZE)
                starts[0].append(i)
            if tx_queues >> i & 1 and self.tx[i].state.configured:
                self._check_ring("Tx", i, self.tx[i].state.dma_ring_addr,
                                 <uint64_t>self.tx[i].state.ring_len * TX_DESC_SIZE)
                starts[1].append(i)
        fresh = self._new_set()
        for i in starts[0]:
            fresh.enabled[i >> 6] |= <uint64_t>1 << (i & 63)
        self._count_enabled(fresh)
        self._publish_set(fresh)
        for i in starts[1]:
            store_seq_u32(&self.tx[i].enabled, 1)

    cdef void _count_enabled(self, RxSet *fresh):
        fresh.any = sum(bin(fresh.enabled[k]).count("1") for k in range(4))

    def disable(self, rx_queues: int, tx_queues: int) -> None:
        """Stop queues; after the next grace no worker touches their rings."""
        cdef RxSet *fresh = self._new_set()
        cdef int i
        for i in range(self.max_queue_pairs):
            if rx_queues >> i & 1:
                fresh.enabled[i >> 6] &= ~(<uint64_t>1 << (i & 63))
            if tx_queues >> i & 1:
                store_seq_u32(&self.tx[i].enabled, 0)
        self._count_enabled(fresh)
        self._publish_set(fresh)

    def forget(self) -> None:
        """After `disable` and a grace: no queue is configured, no vector mapped, registers are 0."""
        cdef int i
        for i in range(2 * self.max_queue_pairs):
            self.states[i].configured = 0
            self.states[i].cursor = 0
        for i in range(self.max_queue_pairs):
            self.rx[i].fault = self.tx[i].fault = FAULT_NONE
            self.rx[i].vector = self.tx[i].vector = NULL
            store_release_u32(self.rx[i].tail, 0)
            store_release_u32(self.tx[i].tail, 0)
        for i in range(self.num_vectors):
            store_seq_u32(self.run.vectors[i].ctl, 0)
            for k in range(3):
                store_release_u32(self.run.vectors[i].itr[<int>k], 0)
            exchange_u32(&self.run.vectors[i].events, 0)
            self.run.vectors[i].rx_itr = self.run.vectors[i].tx_itr = 3

    def map_vector(self, vmap) -> None:
        """Replace what `vmap.vector` announces."""
        cdef Vector *vector = self._vector(vmap.vector)
        cdef int i
        vector.rx_itr = vmap.rx_itr
        vector.tx_itr = vmap.tx_itr
        for i in range(self.max_queue_pairs):
            if vmap.rx_queues >> i & 1:
                self.rx[i].vector = vector
            elif self.rx[i].vector == vector:
                self.rx[i].vector = NULL
            if vmap.tx_queues >> i & 1:
                self.tx[i].vector = vector
            elif self.tx[i].vector == vector:
                self.tx[i].vector = NULL

    def set_eventfd(self, int vector, int fd) -> None:
        """The eventfd of a vector (the caller's; -1 for none).  Close an old one after a grace."""
        self._vector(vector).fd = fd

    def set_filter(self, rx_filter) -> None:
        """Publish an emudev.info.RxFilter; a switch needs an engine publish as well."""
        self._retired.append(<size_t>self.run.sink.filter)
        store_seq_ptr(<void **>&self.run.sink.filter, filter_build(rx_filter))
        self.rx_filter = rx_filter

    def set_rss(self, rss) -> None:
        """Publish key, lookup table and classes of emudev.info.RssConfig."""
        cdef RxSet *fresh
        cdef ToeplitzKey *key
        cdef bytes lut = rss.lut
        cdef bytes raw = rss.key
        if len(raw) != 52 or len(lut) != 64:
            raise ValueError(f"RSS key of {len(raw)} bytes, LUT of {len(lut)}: 52 and 64")
        key = <ToeplitzKey *>calloc(1, sizeof(ToeplitzKey))
        if key == NULL:
            raise MemoryError
        toeplitz_prepare(key, <const uint8_t *>raw)
        fresh = self._new_set()
        self._retired.append(<size_t>fresh.key)
        fresh.key = key
        fresh.hena = rss.hena
        memcpy(fresh.lut, <const uint8_t *>lut, 64)
        self._publish_set(fresh)

    def set_vlan(self, vlan) -> None:
        """Publish emudev.info.VlanOffload.  Insertion needs nothing: descriptors ask for it."""
        cdef RxSet *fresh = self._new_set()
        fresh.strip = bool(vlan.strip)
        self._publish_set(fresh)

    def set_bus_master(self, bint enabled) -> None:
        """Off: after the next grace no byte of guest memory is read or written."""
        store_seq_u32(&self.run.bus_master, enabled)

    def reclaim(self) -> None:
        """Free what was replaced; a grace must have passed."""
        if self._retired is not None:
            for pointer in self._retired:
                free(<void *><size_t>pointer)
            self._retired.clear()

    def write_dyn_ctl(self, int vector, uint32_t value) -> None:
        """A register write of DYN_CTL01 (vector 0) or DYN_CTLN1 that came as a message."""
        cdef Vector *v = self._vector(vector)
        cdef uint64_t due = FOREVER
        cdef uint32_t old = load_seq_u32(v.ctl), index
        if value & DYN_INTENA_MSK:
            value = (value & ~<uint32_t>DYN_INTENA) | (old & DYN_INTENA)
        index = (value & DYN_ITR_MASK) >> DYN_ITR_SHIFT
        if index != 3:
            store_release_u32(v.itr[index], (value >> DYN_INTERVAL_SHIFT) & 0xFFF)
        if value & DYN_SWINT_TRIG:
            or_u32(&v.events, EVENT_NOW)
        store_seq_u32(v.ctl, (value & ~<uint32_t>DYN_SWINT_TRIG) | DYN_ITR_NONE)
        vector_event(&self.run, v, 0, monotonic_ns())

    def read_dyn_ctl(self, int vector) -> int:
        return load_seq_u32(self._vector(vector).ctl)

    def write_itr(self, int index, int vector, uint32_t value) -> None:
        """ITR `index` (0 to 2) of a vector, in units of 2 us."""
        if not 0 <= index <= 2:
            raise ValueError(f"ITR index {index}: 0 to 2")
        store_release_u32(self._vector(vector).itr[index], value & 0xFFF)

    def read_itr(self, int index, int vector) -> int:
        if not 0 <= index <= 2:
            raise ValueError(f"ITR index {index}: 0 to 2")
        return load_relaxed_u32(self._vector(vector).itr[index])

    def raise_vector(self, int vector) -> None:
        """An event of control's own (admin queue): announced as soon as the guest has armed it."""
        vector_event(&self.run, self._vector(vector), EVENT_NOW, monotonic_ns())

    def take_faults(self) -> list[tuple[str, int, str]]:
        """(direction, queue, reason) of queues stopped since the last call.

        A stopped queue moves no frame until it is configured again.
        """
        cdef int i
        cdef uint32_t fault
        faults = []
        for i in range(self.max_queue_pairs):
            for direction, fault in (("rx", self.rx[i].fault), ("tx", self.tx[i].fault)):
                if fault & 0xFF and not fault & 0x100:
                    faults.append((direction, i, FAULT_TEXT[fault]))
            # Told once: the high bit marks it, the queue stays stopped.
            if self.rx[i].fault:
                self.rx[i].fault |= 0x100
            if self.tx[i].fault:
                self.tx[i].fault |= 0x100
        return faults

    @property
    def rx_enabled(self) -> int:
        """Bitmap of enabled Rx queues."""
        return sum(self.run.rx_set.enabled[k] << (64 * k) for k in range(4))

    @property
    def tx_enabled(self) -> int:
        """Bitmap of enabled Tx queues."""
        return sum(1 << i for i in range(self.max_queue_pairs) if self.tx[<int>i].enabled)

    def ring_state(self, str direction, int index) -> dict[str, int]:
        """One queue's RingState by field name."""
        cdef RingState *state = (self.rx[self._index(index)].state if direction == "rx"
                                 else self.tx[self._index(index)].state)
        return state[0]
