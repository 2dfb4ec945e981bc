"""See _ring_put.pyx."""

from libc.stdint cimport uint32_t
from emuiavf.datapath._frame cimport Burst, FrameSink


# FrameSink.put of a VF.
cdef uint32_t vf_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil
