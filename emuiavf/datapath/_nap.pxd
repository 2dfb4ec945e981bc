"""Declarations of include/nap.h for Cython; see there."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "nap.h" nogil:
    uint32_t NAP_DEVICE_PPM
    uint64_t NAP_GROWTH_NS
    uint64_t NAP_SHORTEST_NS
    uint64_t NAP_LONGEST_NS
    uint32_t NAP_LOOKS

    ctypedef struct Nap:
        uint64_t look_ns

    void nap_init(Nap *nap) noexcept
    uint64_t nap_longest(const Nap *nap, uint32_t ppm) noexcept
    uint64_t nap_next(const Nap *nap, uint64_t idle_ns, uint64_t longest) noexcept
    void nap_break(Nap *nap) noexcept
    bint nap_look(Nap *nap) noexcept
    void nap_clock(Nap *nap, uint64_t cpu_ns) noexcept
