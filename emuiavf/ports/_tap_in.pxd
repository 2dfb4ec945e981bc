"""See _tap_in.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf.datapath._frame cimport BURST_BYTES, BURST_FRAMES, Burst, Frame, Segment, Source


cdef enum:
    # Linux hands out 64 KiB of payload and its headers, never more; a longer read is cut off.
    TAP_FRAME = 81920
    TAP_BUFFER = BURST_BYTES + TAP_FRAME + BURST_FRAMES * 128 + 64


cdef struct TapIn:
    Source source
    uint64_t looked_ns
    # Frames that were read and are not done: [first, count).  No more is read before they are.
    uint32_t first
    uint32_t count
    Frame frames[32]
    Segment rests[32]
    uint8_t *buffer             # TAP_BUFFER


# Source.take and done of a TAP.
cdef int tap_take(Source *source, Burst *burst) noexcept nogil
cdef void tap_done(Source *source, Burst *burst, int n) noexcept nogil
