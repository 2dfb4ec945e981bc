"""The generating port, as its probe sees it; bodies: _gen.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from emuiavf._pattern cimport Lanes
from emuiavf.datapath._frame cimport Burst, Frame, Source
from emuiavf.ports._port cimport Port


cdef extern from "generate.h" nogil:
    enum:
        CPU_BASE
        CPU_AVX2
    ctypedef struct Generated:
        void (*make)(const Generated *all, Burst *burst, unsigned count, uint32_t flow,
                     uint64_t seq, uint64_t now_ns) noexcept nogil
        Frame frame
        uint64_t words[4]
        Lanes lanes
        uint64_t word5
        uint32_t stride
        uint8_t *rests
        uint64_t *turn
        uint64_t *word4
        uint64_t *word7
        uint64_t *lane0
        uint64_t *folded
    Frame generated_frame(uint32_t size, uint64_t dst_mac) noexcept
    bint generate_use(Generated *all, int kind) noexcept


cdef struct Gen:
    Source source          # first
    Generated common
    uint64_t next          # frames done, over all flows
    uint64_t end           # of all frames; 0: there is none
    uint64_t rate          # frames per second; 0: as many as there is room for
    uint64_t earned_ns     # until when `credit` is counted
    uint64_t credit        # frames that may be sent now, times 10^9
    uint32_t num_flows


cdef class Generator(Port):
    cdef Gen _gen
    cdef list _refs
    cdef int _set_flows(self, bytes src, bytes dst) except -1
