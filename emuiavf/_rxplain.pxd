"""Declarations of include/rxplain.h for Cython: every extension that cimports them has its own."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf._dma cimport MemReach
from emuiavf.datapath._frame cimport Burst, Frame


cdef extern from "rxplain.h" nogil:
    ctypedef struct PlainFrames:
        Frame *frames[32]
        uint64_t kinds[32]
        uint64_t seen
        uint64_t bytes
    void plain_expect(const uint8_t *desc, unsigned count) noexcept
    unsigned plain_buffers(const uint8_t *desc, unsigned count, const MemReach *reach,
                           uint8_t **buffers) noexcept
    void plain_copy(Burst *burst, uint32_t mask, unsigned count, uint8_t **buffers,
                    PlainFrames *plain) noexcept
    void plain_back(uint32_t rxdid, uint8_t *desc, const PlainFrames *plain,
                    unsigned count) noexcept
    void plain_copy_alike(const Frame *frames, unsigned count, uint32_t length,
                          uint8_t **buffers) noexcept
    void plain_back_alike(uint32_t rxdid, uint8_t *desc, const Frame *frames, unsigned count,
                          uint64_t kind) noexcept
    bint rx_plain_use(int kind) noexcept
