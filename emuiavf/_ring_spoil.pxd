"""See _ring_spoil.pyx."""

from libc.stdint cimport uint32_t
from emuiavf.datapath._frame cimport Burst, FrameSink


# FrameSink.put of a VF some of whose frames are to be spoilt.
cdef uint32_t vf_put_spoilt(FrameSink *sink, Burst *burst, uint32_t mask,
                            uint32_t how) noexcept nogil
