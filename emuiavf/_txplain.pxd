"""Declarations of include/txplain.h for Cython: every extension that cimports them has its own."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf._dma cimport Extent
from emuiavf.datapath._frame cimport Burst


cdef extern from "txplain.h" nogil:
    enum:
        CPU_BASE
        CPU_AVX2
    ctypedef struct PlainRun:
        uint8_t *hosts[32]
        uint32_t lens[32]
        uint32_t reports
    ctypedef struct PlainCommon:
        uint64_t bytes
        uint64_t all
        uint64_t any
    ctypedef struct PlainReach:
        uint32_t longest
    PlainCommon plain_common() noexcept
    uint64_t plain_alike(const PlainCommon *common) noexcept
    PlainReach plain_reach(const Extent *hint) noexcept
    unsigned plain_scan(const uint64_t *desc, unsigned limit, const PlainReach *reach,
                        PlainRun *run) noexcept
    unsigned plain_fill(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                        uint32_t slot, uint32_t budget, PlainCommon *common) noexcept
    bint tx_plain_use(int kind) noexcept
