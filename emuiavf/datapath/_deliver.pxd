"""What becomes of a burst: see _deliver.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, FrameSink, Source
from emuiavf.datapath._switch cimport Guard, Switch


cdef struct Route:
    Source *source
    FrameSink *one     # 1:1 connection ...
    Switch *many       # ... or a switch; both NULL: frames go nowhere
    const Guard *guard  # NULL: its endpoint may send what it likes


cdef inline uint32_t all_of(int count) noexcept nogil:
    return <uint32_t>((<uint64_t>1 << count) - 1)


# 1:1: put in order, hold at the first frame without room; returns how many are finished.
cdef int deliver_one(Route *route, Burst *burst, int count, uint64_t hold_ns) noexcept nogil
# Switch: one mask of frames per destination touched; nothing is held.
cdef void deliver_many(Route *route, Burst *burst, int count) noexcept nogil
