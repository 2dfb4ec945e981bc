"""Base of the ports: an endpoint with a counter row per direction."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from emuiavf._atomic cimport add_relaxed_u64
from emuiavf._bits cimport count_bits, lowest_bit
from emuiavf.datapath._endpoint cimport Endpoint
from emuiavf.datapath._frame cimport (
    FRAME_BROADCAST, FRAME_MULTICAST, ROW_COUNTERS, RX_BROADCAST, RX_BYTES, RX_DISCARDED_BYTES,
    RX_DISCARDS, RX_MULTICAST, RX_PACKETS, RX_UNICAST, Burst, Frame,
)


cdef class Port(Endpoint):
    cdef object _rows
    # Frames that came to this port (RX_COUNTERS): several workers may write it.
    cdef uint64_t *rx_row
    # Frames that this port brought in (TX_COUNTERS): its source's worker alone.
    cdef uint64_t *tx_row


# What one put() counts, before it is added to the row.
cdef struct Tally:
    bint used
    uint64_t counts[16]


cdef inline void tally_frame(Tally *tally, const Frame *frame) noexcept nogil:
    """A frame came to the port, whatever becomes of it."""
    cdef int column = RX_UNICAST
    if not tally.used:
        memset(tally.counts, 0, sizeof(tally.counts))
        tally.used = True
    if frame.flags & FRAME_BROADCAST:
        column = RX_BROADCAST
    elif frame.flags & FRAME_MULTICAST:
        column = RX_MULTICAST
    tally.counts[column] += 1
    # Counted with the FCS, as everywhere on the receiving side.
    tally.counts[RX_BYTES] += frame.len + 4


cdef inline void tally_discard(Tally *tally, const Frame *frame, int reason) noexcept nogil:
    """A frame came to the port and was discarded; RX_DISCARDS: for a reason without a column."""
    tally_frame(tally, frame)
    tally.counts[RX_DISCARDS] += 1
    tally.counts[RX_DISCARDED_BYTES] += frame.len + 4
    if reason != RX_DISCARDS:
        tally.counts[reason] += 1


cdef inline void tally_flush(Tally *tally, uint64_t *row) noexcept nogil:
    cdef int column
    if tally.used:
        for column in range(ROW_COUNTERS):
            if tally.counts[column]:
                add_relaxed_u64(row + column, tally.counts[column])


cdef inline void tally_accepted(const Burst *burst, uint32_t mask, uint64_t *row) noexcept nogil:
    """The frames of `mask` came to the port and were accepted."""
    cdef uint32_t left = mask, flags, casts = 0, multicast = 0, broadcast = 0
    cdef uint32_t count = <uint32_t>count_bits(mask)
    # Counted with the FCS, as everywhere on the receiving side.
    cdef uint64_t size = 4 * <uint64_t>count
    while left:
        size += burst.frames[lowest_bit(left)].len
        casts |= burst.frames[lowest_bit(left)].flags
        left &= left - 1
    add_relaxed_u64(row + RX_PACKETS, count)
    add_relaxed_u64(row + RX_BYTES, size)
    # Most bursts are of unicast frames alone.
    if casts & FRAME_MULTICAST:
        left = mask
        while left:
            flags = burst.frames[lowest_bit(left)].flags
            left &= left - 1
            broadcast += (flags & FRAME_BROADCAST) != 0
            multicast += (flags & FRAME_MULTICAST) != 0
        multicast -= broadcast
        add_relaxed_u64(row + RX_BROADCAST, broadcast)
        add_relaxed_u64(row + RX_MULTICAST, multicast)
    add_relaxed_u64(row + RX_UNICAST, count - multicast - broadcast)
