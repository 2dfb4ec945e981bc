"""What becomes of a burst: see _deliver.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf.datapath._bucket cimport Bucket
from emuiavf._bits cimport lowest_bit
from emuiavf.datapath._frame cimport (
    FRAME_ASK_TSO, FRAME_HASHED, FRAME_RULED, Burst, Frame, FrameSink, Source,
)
from emuiavf.datapath._switch cimport Guard, Switch


cdef struct Route:
    Source *source
    FrameSink *one     # 1:1 connection ...
    Switch *many       # ... or a switch; both NULL: frames go nowhere
    const Guard *guard  # NULL: its endpoint may send what it likes
    Bucket *promise    # NULL: its endpoint is promised nothing
    uint64_t owed      # the worker's: see bucket_pay()
    FrameSink *awaited  # the worker's: where, this turn, what was promised waits for room


cdef inline void again(Burst *burst, uint32_t mask, uint32_t cursor) noexcept nogil:
    """Make frames that one destination has had fit for the next: what the first learnt for itself
    (its hash) and how far it has cut them is gone.  `cursor`: where frame 0 began."""
    cdef Frame *frame
    cdef int i
    while mask:
        i = lowest_bit(mask)
        mask &= mask - 1
        frame = &burst.frames[i]
        frame.flags &= ~<uint32_t>(FRAME_HASHED | FRAME_RULED)
        frame.hash = 0
        if frame.flags & FRAME_ASK_TSO:
            frame.cursor = 0 if i else cursor


cdef inline bint may_flood(Source *source, uint64_t cost_ns, uint64_t now) noexcept nogil:
    """Has the source flooded so little that another frame of this cost may pass?

    At once it may flood what its limit allows in 10 ms.
    """
    if source.flooded_ns < now:
        source.flooded_ns = now
    if source.flooded_ns - now > 10_000_000:
        return 0
    source.flooded_ns += cost_ns
    return 1


cdef inline uint64_t pieces(const Frame *frame) noexcept nogil:
    """How many frames a frame becomes."""
    return frame.len // frame.mss + 1 if frame.flags & FRAME_ASK_TSO else 1


# 1:1: put in order, hold at the first frame without room; returns how many are finished.
cdef int deliver_one(Route *route, Burst *burst, int count, uint64_t hold_ns) noexcept nogil
# Switch: one mask of frames per destination touched; nothing is held.
cdef void deliver_many(Route *route, Burst *burst, int count) noexcept nogil
