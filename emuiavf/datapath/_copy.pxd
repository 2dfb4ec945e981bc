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
