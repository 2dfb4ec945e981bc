"""See _tap_out.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, FrameSink


cdef struct TapOut:
    FrameSink sink
    uint64_t *row
    int fd
    uint32_t max_frame          # 0: whatever the kernel takes
    uint32_t large_udp          # the kernel knows GSO_UDP_L4


# FrameSink.put of a TAP.
cdef uint32_t tap_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil
