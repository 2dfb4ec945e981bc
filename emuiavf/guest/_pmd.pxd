"""The driver's side of the iavf rings: state, descriptor bits and the leaves of the hot path.

Every slot of a ring owns one buffer for life, so a slot number is all there is to track.  Formats:
16-byte Tx descriptors, 32-byte Rx descriptors, legacy (RXDID 1) and flexible (2 and 22).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from emuiavf._atomic cimport load_acquire_u64, store_release_u32
from emuiavf._bits cimport prefetch_write


cpdef enum TxBits:
    """Qword 1 of a Tx descriptor; `_SHIFT`s place a field, the rest are single bits or values.

    Of a context descriptor L2TAG2, EIP and L4T fields are in qword 0.
    """
    TX_DTYPE_DATA = 0x0
    TX_DTYPE_CONTEXT = 0x1
    TX_DTYPE_DONE = 0xF
    TX_EOP = 1 << 4
    TX_RS = 1 << 5
    TX_ICRC = 1 << 6
    TX_IL2TAG1 = 1 << 7
    TX_IIPT_SHIFT = 9
    TX_L4T_SHIFT = 12
    TX_MACLEN_SHIFT = 16
    TX_IPLEN_SHIFT = 23
    TX_L4LEN_SHIFT = 30
    TX_BUFSZ_SHIFT = 34
    TX_L2TAG1_SHIFT = 48
    TX_CTX_EIPLEN_SHIFT = 2
    TX_CTX_L4TUNT_SHIFT = 9
    TX_CTX_EIP_NOINC = 1 << 11
    TX_CTX_L4TUNLEN_SHIFT = 12
    TX_CTX_L4T_CS = 1 << 23
    TX_CTX_TSO = 1 << 4
    TX_CTX_IL2TAG2 = 1 << 6
    TX_CTX_L2TAG2_SHIFT = 32
    TX_CTX_TSO_LEN_SHIFT = 30
    TX_CTX_MSS_SHIFT = 50


cpdef enum RxBits:
    """Qword 1 of a legacy Rx writeback; error bits are relative to RX_ERROR_SHIFT."""
    RX_DD = 1 << 0
    RX_EOF = 1 << 1
    RX_L2TAG1P = 1 << 2
    RX_L3L4P = 1 << 3
    RX_CRCP = 1 << 4
    RX_FLTSTAT = 3 << 12
    RX_STATUS_MASK = 0x7FFFF
    RX_ERROR_SHIFT = 19
    RX_ERROR_MASK = 0xFF
    RX_PTYPE_SHIFT = 30
    RX_PTYPE_MASK = 0xFF
    RX_LENGTH_SHIFT = 38
    RX_LENGTH_MASK = 0x3FFF
    RX_ERROR_RXE = 1 << 0
    RX_ERROR_IPE = 1 << 3
    RX_ERROR_L4E = 1 << 4
    RX_ERROR_OVERSIZE = 1 << 6
    RX_L2TAG2P = 1 << 0           # qword 2, of the flexible formats FLEX_L2TAG2P
    RX_L2TAG2_2_SHIFT = 48


cpdef enum FlexBits:
    """A flexible Rx writeback; of qword 1 DD, EOF and L3L4P stand as in the legacy one."""
    FLEX_IPE_SHIFT = 4
    FLEX_L4E_SHIFT = 5
    FLEX_RXE_SHIFT = 10
    FLEX_CRCP = 1 << 11
    FLEX_RSS_VALID = 1 << 12
    FLEX_L2TAG1P = 1 << 13
    FLEX_L2TAG2P = 1 << 11        # of qword 2, as the next three
    FLEX_AUX0_VALID = 1 << 14
    FLEX_AUX1_VALID = 1 << 15
    FLEX_TIME_VALID = 1 << 24
    FLEX_PTYPE_SHIFT = 16
    FLEX_PTYPE_MASK = 0x3FF
    FLEX_LENGTH_SHIFT = 32


cdef enum:
    RS_EVERY = 32     # descriptors between two completions asked for
    REARM_EVERY = 32  # buffers given back to the device at once


cdef struct TxState:
    uint64_t *desc        # two qwords each
    uint8_t *buffers
    uint64_t buffers_iova
    uint32_t *doorbell    # mapped QTX_TAIL, or `shadow` when doorbells trap
    uint16_t *asked       # slots that carry RS and are not reclaimed: a queue of ring_len entries
    uint32_t ring_len
    uint32_t stride       # from one buffer to the next
    uint32_t buf_size
    uint32_t next         # slot the next descriptor goes to
    uint32_t clean        # oldest slot that is not reclaimed
    uint32_t since_rs
    uint32_t asked_head
    uint32_t asked_tail
    uint32_t shadow


cdef struct RxState:
    uint64_t *desc        # four qwords each
    uint8_t *buffers
    uint64_t buffers_iova
    uint32_t *doorbell    # mapped QRX_TAIL, or `shadow`
    uint32_t ring_len
    uint32_t stride
    uint32_t buf_size
    uint32_t next         # oldest slot that is not consumed
    uint32_t tail         # slots [next, tail) are the device's or hold received frames
    uint32_t flexible     # RXDID 2 or 22
    uint32_t shadow


cdef inline uint32_t ring_distance(uint32_t start, uint32_t end, uint32_t ring_len) noexcept nogil:
    return end - start if end >= start else end + ring_len - start


cdef inline uint32_t ring_next(uint32_t slot, uint32_t ring_len) noexcept nogil:
    # ring_len is a multiple of 32, not a power of two: no mask here.
    return 0 if slot + 1 == ring_len else slot + 1


cdef inline uint32_t tx_free(const TxState *ring) noexcept nogil:
    """Descriptors that can be written now: one slot stays empty, or full would look like empty."""
    return ring.ring_len - 1 - ring_distance(ring.clean, ring.next, ring.ring_len)


cdef inline uint8_t *tx_buffer(const TxState *ring) noexcept nogil:
    """Where the bytes of the next descriptor go."""
    return ring.buffers + <uint64_t>ring.next * ring.stride


cdef inline void tx_claim(const TxState *ring, uint32_t count) noexcept nogil:
    """Ask for the cache lines of the next `count` slots, which the device's core had last: all at
    once, not one after the other as they are written (bench_loop: 6.0 to 8.8 million frames per
    second where a line takes 0.4 us from core to core)."""
    cdef uint32_t slot = ring.next, _i
    for _i in range(count):
        prefetch_write(ring.buffers + <uint64_t>slot * ring.stride)
        prefetch_write(&ring.desc[2 * slot])
        slot = ring_next(slot, ring.ring_len)


cdef inline void tx_write(TxState *ring, uint64_t fields, uint32_t length) noexcept nogil:
    """Write one data descriptor; `fields` is qword 1 without RS and size."""
    cdef uint32_t slot = ring.next
    ring.since_rs += 1
    if ring.since_rs >= RS_EVERY and fields & TX_EOP:
        fields |= TX_RS
        ring.asked[ring.asked_tail] = <uint16_t>slot
        ring.asked_tail = ring_next(ring.asked_tail, ring.ring_len)
        ring.since_rs = 0
    ring.desc[2 * slot] = ring.buffers_iova + <uint64_t>slot * ring.stride
    ring.desc[2 * slot + 1] = fields | (<uint64_t>length << TX_BUFSZ_SHIFT)
    ring.next = ring_next(slot, ring.ring_len)


cdef inline void tx_reclaim(TxState *ring) noexcept nogil:
    """Free every slot up to the newest completion that the device has written."""
    cdef uint32_t slot
    while ring.asked_head != ring.asked_tail:
        slot = ring.asked[ring.asked_head]
        if load_acquire_u64(&ring.desc[2 * slot + 1]) & 0xF != TX_DTYPE_DONE:
            return
        ring.clean = ring_next(slot, ring.ring_len)
        ring.asked_head = ring_next(ring.asked_head, ring.ring_len)


cdef inline void tx_doorbell(TxState *ring) noexcept nogil:
    # Release: the device must see the descriptors and the buffers before the tail.
    store_release_u32(ring.doorbell, ring.next)


cdef inline uint32_t rx_posted(const RxState *ring) noexcept nogil:
    """Slots that the device may fill or has filled and that are not consumed yet."""
    return ring_distance(ring.next, ring.tail, ring.ring_len)


cdef inline uint64_t rx_qword1(const RxState *ring, uint32_t slot) noexcept nogil:
    # Acquire: the rest of the descriptor and the buffer are read after DD.
    return load_acquire_u64(&ring.desc[4 * slot + 1])


cdef inline uint8_t *rx_buffer(const RxState *ring, uint32_t slot) noexcept nogil:
    return ring.buffers + <uint64_t>slot * ring.stride


cdef inline uint32_t rx_length(const RxState *ring, uint32_t slot) noexcept nogil:
    """Bytes in one buffer, never more than the buffer has."""
    cdef uint32_t length
    if ring.flexible:
        length = (ring.desc[4 * slot] >> FLEX_LENGTH_SHIFT) & RX_LENGTH_MASK
    else:
        length = (ring.desc[4 * slot + 1] >> RX_LENGTH_SHIFT) & RX_LENGTH_MASK
    return length if length <= ring.buf_size else ring.buf_size


cdef inline uint32_t rx_error(const RxState *ring, uint64_t qword1) noexcept nogil:
    """The error bits of a frame's last descriptor, placed as in the legacy format."""
    if not ring.flexible:
        return (qword1 >> RX_ERROR_SHIFT) & RX_ERROR_MASK
    return (RX_ERROR_RXE * (qword1 >> FLEX_RXE_SHIFT & 1)
            | RX_ERROR_IPE * (qword1 >> FLEX_IPE_SHIFT & 1)
            | RX_ERROR_L4E * (qword1 >> FLEX_L4E_SHIFT & 1))


cdef inline uint32_t rx_frame(const RxState *ring) noexcept nogil:
    """How many slots the oldest frame takes; 0 when none is complete."""
    cdef uint32_t slot = ring.next, count = 0, posted = rx_posted(ring)
    cdef uint64_t qword1
    while count < posted:
        qword1 = rx_qword1(ring, slot)
        if not qword1 & RX_DD:
            return 0
        count += 1
        if qword1 & RX_EOF:
            return count
        slot = ring_next(slot, ring.ring_len)
    return 0


cdef void rx_rearm(RxState *ring, uint32_t at_least) noexcept nogil


cdef class Ring:
    cdef object _ring
    cdef object _buffers
    cdef object _doorbell
    cdef readonly int index
    cdef readonly int ring_len
    cdef readonly int buf_size
    # Whether a doorbell is a store; if not, `tail` must be sent as a message.
    cdef readonly bint mapped


cdef class TxRing(Ring):
    cdef TxState state
    cdef object _asked


cdef class RxRing(Ring):
    cdef RxState state
    cdef readonly int rxdid
