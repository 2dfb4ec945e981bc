"""Delivering the bytes of a frame: gathered from head and segments, checksums filled in."""

from libc.stdint cimport uint8_t, uint32_t
from emuiavf.datapath._frame cimport Frame, Segment


# Where reading of a frame's bytes goes on.
cdef struct Gather:
    const uint8_t *at
    uint32_t left
    Segment *segs
    uint32_t segs_left


# At byte `offset` of the frame.
cdef void gather_begin(Gather *gather, const Frame *frame, uint32_t offset) noexcept nogil


cdef inline uint32_t gather_piece(Gather *gather, uint32_t most,
                                  const uint8_t **at) noexcept nogil:
    """The bytes that lie there in one piece, `most` of them or fewer; 0 at the frame's end."""
    cdef uint32_t count
    while gather.left == 0:
        if gather.segs_left == 0:
            return 0
        gather.at = gather.segs.data
        gather.left = gather.segs.len
        gather.segs += 1
        gather.segs_left -= 1
    count = gather.left if gather.left < most else most
    at[0] = gather.at
    gather.at += count
    gather.left -= count
    return count


# Copies the frame into the pieces `into` (together at least frame.len - strip bytes), leaving out
# `strip` bytes behind the addresses.  Fills in the checksums that the sender asked for; else, with
# `judge`, checks the L4 checksum on the way.
# Returns FRAME_L4_GOOD, FRAME_L4_BAD or 0 (nothing to check).
cdef uint32_t emit_frame(Frame *frame, uint32_t strip, Segment *into, bint judge) noexcept nogil

# The same for a frame of a head and one segment, of which nothing is asked, stripped or left to a
# CRC, into one buffer.
cdef uint32_t emit_whole(Frame *frame, uint8_t *into, bint judge) noexcept nogil

# One segment of a FRAME_ASK_TSO frame, the one at payload offset `at`; `gather` stands at its
# payload and is moved on.  Pieces as above.
cdef void emit_segment(Frame *frame, uint32_t at, Gather *gather, uint32_t strip,
                       Segment *into) noexcept nogil
