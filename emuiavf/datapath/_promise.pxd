"""See _promise.pyx."""

from libc.stdint cimport uint64_t
from emuiavf.datapath._deliver cimport Route
from emuiavf.datapath._frame cimport Burst


# Switch, for what its sender was promised: held at the first frame without room, so long as its
# destination has not been full for `hold_ns`; returns how many are finished.
cdef int deliver_promised(Route *route, Burst *burst, int count, uint64_t hold_ns) noexcept nogil
