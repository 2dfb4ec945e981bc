"""Tx rings as Sources: descriptors into frames, heads copied before they are judged, writeback."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove

from emuiavf._atomic cimport (
    load_acquire_ptr, load_acquire_u32, load_relaxed_ptr, load_relaxed_u32, load_relaxed_u64,
    store_release_u64, store_seq_u32,
)
from emuiavf._bits cimport low_bits, lowest_bit, prefetch_read
from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemMap, mem_find, mem_translate
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, BURST_SEGMENTS, ETHER_ADDRESSES, ETHER_TAG, ETHER_VLAN, FRAME_ASK_IP_CSUM,
    FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_BROADCAST, FRAME_DROP, FRAME_HEAD, FRAME_HEADROOM,
    FRAME_HEAD_MAX, FRAME_MAX_LEN, FRAME_MAX_SEGMENTS, FRAME_MAX_TSO, FRAME_MIN_LEN,
    FRAME_MULTICAST, FRAME_TUNNEL, L4_NONE, L4_UDP, TUNNEL_ASK_IP_CSUM, TUNNEL_KEEP_ID,
    TUNNEL_L4_SHIFT,
    TX_BROADCAST, TX_BYTES, TX_ERRORS, TX_MALICIOUS, TX_MULTICAST, TX_PACKETS, TX_SEGMENTS,
    TX_UNICAST, Burst, Frame, Source, frame_take_dst,
)
from emuiavf.datapath._offload cimport frame_check_request, frame_copy
from emuiavf.datapath._tunnel cimport frame_check_tunnel
from emuiavf._ring_state cimport (
    EVENT_TX, FAULT_ADDRESS, FAULT_CHAIN, FAULT_LENGTH, FAULT_NONE, FAULT_RING, FAULT_TAIL,
    FAULT_TYPE, RingState, TXC_EIPLEN_SHIFT, TXC_EIPT, TXC_EIP_NOINC, TXC_IL2TAG2,
    TXC_L4TUNLEN_SHIFT, TXC_L4TUNT_SHIFT, TXC_L4T_CS, TXC_MSS_SHIFT, TXC_TSO, TXD_BUFSZ_MASK,
    TXD_BUFSZ_SHIFT, TXD_DTYPE_CONTEXT, TXD_DTYPE_DATA, TXD_DTYPE_DONE, TXD_EOP, TXD_IIPT_SHIFT,
    TXD_IL2TAG1, TXD_IPLEN_SHIFT, TXD_L2TAG1_SHIFT, TXD_L4LEN_SHIFT, TXD_L4T_SHIFT,
    TXD_MACLEN_SHIFT, TXD_NOT_PLAIN, TXD_RS, TX_DESC_SIZE, TxRun, Vector,
)
from emuiavf._ring_irq cimport vector_event
from emuiavf._ring_tail cimport ring_ahead
from emuiavf._txplain cimport (
    PlainCommon, PlainReach, PlainRun, plain_alike, plain_common, plain_fill, plain_reach,
    plain_scan,
)


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept
    void event_signal(int fd) noexcept


cdef extern from *:
    bint likely(bint condition) noexcept nogil
    bint unlikely(bint condition) noexcept nogil


cdef enum:
    # Frame.hash until the head is there: which tags are to be inserted, and the length of the inner
    # IP header of a packet in a packet.
    TX_INNER_TAG = 1
    TX_OUTER_TAG = 2
    TX_INNER_SHIFT = 8


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


cdef void tx_tunnel(Frame *frame, uint64_t outer) noexcept nogil:
    """A context descriptor with EIPT: what the data descriptor asks for is of the inner packet,
    `outer` (qword 0) has the rest.  A frame without anything of the former is like any other.
    """
    cdef uint32_t flags = frame.flags, tunnel = outer & TXC_EIPT
    cdef uint32_t l4tunt = <uint32_t>(outer >> TXC_L4TUNT_SHIFT) & 3
    frame.flags = flags & FRAME_ASK_TSO
    if tunnel == 3:
        frame.flags |= FRAME_ASK_IP_CSUM
    if outer & TXC_L4T_CS:
        frame.flags |= FRAME_ASK_L4_CSUM
    if flags:
        frame.flags |= FRAME_TUNNEL
        tunnel |= l4tunt << 2
        if outer & TXC_EIP_NOINC:
            tunnel |= TUNNEL_KEEP_ID
        if flags & FRAME_ASK_IP_CSUM:
            tunnel |= TUNNEL_ASK_IP_CSUM
        frame.tunnel = <uint8_t>(tunnel | frame.l4_proto << TUNNEL_L4_SHIFT)
        frame.tunnel_len = <uint8_t>((outer >> TXC_L4TUNLEN_SHIFT & 0x7F) * 2)
        frame.hash |= <uint32_t>frame.l3_len << TX_INNER_SHIFT
    frame.l3_len = <uint16_t>(outer >> TXC_EIPLEN_SHIFT & 0x7F) * 4
    frame.l4_proto = L4_UDP if l4tunt == 1 else L4_NONE


cdef int tx_decode(TxRun *tx, Burst *burst, Frame *frame, uint32_t slot,
                   uint32_t avail) noexcept nogil:
    """One frame from the descriptors at `slot`; returns how many they are, 0 if not all are there
    (or the burst is full), or -1 after a fault."""
    cdef const uint64_t *desc
    cdef uint64_t address, word, first = 0, context = 0, words = 0
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
            words = address
            continue
        if word & 0xF != TXD_DTYPE_DATA:
            tx_fault(tx, FAULT_TYPE)
            return -1
        length = <uint32_t>(word >> TXD_BUFSZ_SHIFT) & TXD_BUFSZ_MASK
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
    # What is to be known when the head is there travels in fields that are not used until then.
    frame.vlan_tci = <uint16_t>(first >> TXD_L2TAG1_SHIFT)
    frame.next_slot = <uint16_t>slot
    if first & TXD_IL2TAG1:
        frame.hash |= TX_INNER_TAG
    if context:
        if context & TXC_TSO:
            frame.flags |= FRAME_ASK_TSO
            frame.mss = <uint16_t>(context >> TXC_MSS_SHIFT)
        if context & TXC_IL2TAG2:
            frame.hash |= TX_OUTER_TAG
            frame.mark = <uint16_t>(words >> 32)
        if words & TXC_EIPT:
            tx_tunnel(frame, words)
    return used


cdef inline void _tag(Frame *frame, uint32_t tpid, uint16_t tci) noexcept nogil:
    """Insert a VLAN tag behind the addresses of the private head."""
    memmove(frame.head - ETHER_TAG, frame.head, ETHER_ADDRESSES)
    frame.head -= ETHER_TAG
    frame.head[12] = <uint8_t>(tpid >> 8)
    frame.head[13] = <uint8_t>tpid
    frame.head[14] = <uint8_t>(tci >> 8)
    frame.head[15] = <uint8_t>tci
    frame.head_len += ETHER_TAG
    frame.len += ETHER_TAG
    frame.l2_len += ETHER_TAG


cdef void tx_head(const TxRun *tx, Burst *burst, int index) noexcept nogil:
    """Copy the head of a frame out of guest memory and judge what its sender asked for."""
    cdef Frame *frame = &burst.frames[index]
    cdef uint8_t *head = burst.heads[index] + FRAME_HEADROOM
    cdef uint32_t want = FRAME_HEAD_MAX if frame.flags & FRAME_TUNNEL else FRAME_HEAD
    cdef uint32_t got = 0, now, tags = frame.hash
    cdef uint16_t inner = frame.vlan_tci, outer = <uint16_t>frame.mark
    if want > frame.len:
        want = frame.len
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
    frame.flags |= frame_take_dst(frame, head)
    if tags:
        # On the wire: addresses, L2TAG2, L2TAG1, the rest.
        if tags & TX_INNER_TAG:
            _tag(frame, ETHER_VLAN, inner)
        if tags & TX_OUTER_TAG:
            _tag(frame, tx.vf.outer_tpid, outer)
    if frame.flags & FRAME_TUNNEL:
        if frame_check_tunnel(frame, tags >> TX_INNER_SHIFT):
            frame.flags |= FRAME_DROP
    elif frame.flags & (FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_ASK_TSO):
        if frame_check_request(frame):
            frame.flags |= FRAME_DROP


cdef uint32_t tx_posted(TxRun *tx) noexcept nogil:
    cdef uint32_t known, tail, ring_len = tx.state.ring_len, head = tx.state.head
    if not load_acquire_u32(&tx.enabled) or tx.fault or not load_relaxed_u32(&tx.vf.bus_master):
        return 0
    known = ring_ahead(head, tx.known_tail, ring_len)
    if known >= BURST_FRAMES:
        return known
    # Acquire: descriptors below the tail are read after the tail itself.
    tail = load_acquire_u32(tx.tail)
    if tail >= ring_len:
        tx_fault(tx, FAULT_TAIL)
        return 0
    tx.known_tail = tail
    return ring_ahead(head, tail, ring_len)


cdef bint tx_seek(TxRun *tx, const uint64_t *desc, PlainReach *reach) noexcept nogil:
    """Move the reach to where a plain frame lies; returns 0 when it lies nowhere."""
    cdef uint64_t word = load_relaxed_u64(desc + 1)
    cdef uint32_t length = <uint32_t>(word >> TXD_BUFSZ_SHIFT) & TXD_BUFSZ_MASK
    if mem_translate(tx.map, &tx.hint, load_relaxed_u64(desc), length, MEM_READ) == NULL:
        return 0
    reach[0] = plain_reach(tx.hint)
    return 1


cdef int tx_take(Source *source, Burst *burst) noexcept nogil:
    """Runs of plain frames together, the others one by one; heads of those at the end, so that the
    misses of one frame's payload overlap those of the next."""
    cdef TxRun *tx = <TxRun *>source
    cdef RingState *state = tx.state
    cdef const MemMap *map
    cdef uint32_t slot = state.head, avail, limit, found, left, count = 0, plain = 0, reports = 0
    cdef uint32_t budget = tx.budget
    cdef uint32_t ring_len = state.ring_len
    cdef const uint64_t *desc
    cdef Frame *frame
    cdef PlainReach reach
    cdef PlainRun run
    cdef PlainCommon common = plain_common()
    cdef uint64_t before
    cdef bint sought = False
    cdef int used
    avail = tx_posted(tx)
    if avail == 0:
        return 0
    map = <const MemMap *>load_acquire_ptr(<void **>tx.vf.map)
    tx.map = map
    if map.generation != tx.map_seen:
        tx.map_seen = map.generation
        tx.ring_hint = NULL
        tx.hint = NULL
    tx.ring = mem_translate(map, &tx.ring_hint, state.dma_ring_addr,
                            <uint64_t>ring_len * TX_DESC_SIZE, MEM_READ | MEM_WRITE)
    if tx.ring == NULL:
        tx_fault(tx, FAULT_RING)
        return 0
    burst.num_segs = 0
    reach = plain_reach(tx.hint)
    while count < BURST_FRAMES and avail and budget:
        desc = <const uint64_t *>(tx.ring + slot * TX_DESC_SIZE)
        if likely(load_relaxed_u64(desc + 1) & TXD_NOT_PLAIN == TXD_EOP):
            limit = min(<uint32_t>BURST_FRAMES - count, avail, ring_len - slot)
            found = plain_scan(desc, limit, &reach, &run)
            if likely(found):
                before = common.bytes
                found = plain_fill(burst, count, &run, found, slot, budget, &common)
                if unlikely(found == 0):
                    break
                budget -= min(<uint32_t>(common.bytes - before), budget)
                plain |= low_bits(found) << count
                reports |= (run.reports & low_bits(found)) << count
                count += found
                avail -= found
                slot += found
                if slot == ring_len:
                    slot = 0
                    burst.frames[count - 1].next_slot = 0
                sought = False
                continue
            if not sought and tx_seek(tx, desc, &reach):
                sought = True
                continue
        used = tx_decode(tx, burst, &burst.frames[count], slot, avail)
        if used <= 0:
            break
        frame = &burst.frames[count]
        avail -= <uint32_t>used
        slot = frame.next_slot
        budget -= min(frame.len, budget)
        count += 1
        sought = False
    left = low_bits(count) & ~plain
    while unlikely(left):
        tx_head(tx, burst, lowest_bit(left))
        left &= left - 1
    if count:
        burst.frames[0].cursor = state.cursor
        if likely(plain == low_bits(count)):
            burst.alike = plain_alike(&common)
    else:
        # The rest of a frame may come with another doorbell, however much of it is known.
        tx.known_tail = state.head
    tx.taken = count
    tx.plain = plain
    tx.reports = reports
    return <int>count


cdef inline void tx_report(TxRun *tx, uint32_t slot) noexcept nogil:
    """Release: the data was read before the driver may use its buffers again."""
    store_release_u64(<uint64_t *>(tx.ring + slot * TX_DESC_SIZE) + 1, TXD_DTYPE_DONE)


cdef uint32_t tx_write_back(TxRun *tx, uint32_t slot, uint32_t end) noexcept nogil:
    """Report the descriptors from `slot` to `end` that ask for it; returns whether one did."""
    cdef uint32_t reported = 0
    cdef uint64_t word
    while slot != end:
        word = load_relaxed_u64(<uint64_t *>(tx.ring + slot * TX_DESC_SIZE) + 1)
        if word & 0xF == TXD_DTYPE_DATA and word & TXD_RS:
            tx_report(tx, slot)
            reported = 1
        slot += 1
        if slot == tx.state.ring_len:
            slot = 0
    return reported


cdef void tx_count(uint64_t *row, const Burst *burst, int count) noexcept nogil:
    """Count finished frames, one that is to be cut as what it becomes."""
    cdef uint64_t bytes = 0, unicast = 0, multicast = 0, broadcast = 0, errors = 0, segments = 0
    cdef uint64_t packets
    cdef uint32_t header
    cdef const Frame *frame
    cdef int i
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
    row[TX_BYTES] += bytes
    row[TX_UNICAST] += unicast
    row[TX_MULTICAST] += multicast
    row[TX_BROADCAST] += broadcast
    row[TX_ERRORS] += errors
    row[TX_SEGMENTS] += segments
    row[TX_PACKETS] += unicast + multicast + broadcast


cdef void tx_done(Source *source, Burst *burst, int count) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef RingState *state = tx.state
    cdef uint64_t bytes = 0
    cdef uint32_t slot = state.head, end, reported, left, at, flags = 0
    cdef Vector *vector
    cdef int i
    if <uint32_t>count < tx.taken:
        state.cursor = burst.frames[count].cursor
    else:
        state.cursor = 0
    if count == 0:
        return
    if likely(burst.alike and <uint32_t>count == tx.taken):
        bytes = burst.alike
    else:
        for i in range(count):
            flags |= burst.frames[i].flags
            bytes += burst.frames[i].len
    if likely(not flags & (FRAME_DROP | FRAME_ASK_TSO | FRAME_MULTICAST)):
        source.row[TX_BYTES] += bytes
        source.row[TX_UNICAST] += count
        source.row[TX_PACKETS] += count
    else:
        tx_count(source.row, burst, count)
    end = burst.frames[count - 1].next_slot
    left = low_bits(<uint32_t>count)
    if likely(left & ~tx.plain == 0):
        # One descriptor each: whether it asks for a report was seen when it was taken.
        left &= tx.reports
        reported = left
        while left:
            at = slot + <uint32_t>lowest_bit(left)
            left &= left - 1
            tx_report(tx, at if at < state.ring_len else at - state.ring_len)
    else:
        reported = tx_write_back(tx, slot, end)
    state.head = end
    if reported:
        vector = <Vector *>load_relaxed_ptr(<void **>&tx.vector)
        if vector != NULL:
            vector_event(tx.vf, vector, EVENT_TX, burst.now_ns)
