"""Declarations of include/spin.h for Cython; see there."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "spin.h" nogil:
    uint64_t SPIN_SHORT_NS
    uint64_t SPIN_LONG_NS
    uint32_t SPIN_FRAME_LEN
    uint32_t SPIN_QUICK
    uint64_t SPIN_WATCHED_NS
    uint64_t SPIN_CROWDED_NS

    ctypedef struct Spin:
        pass

    void spin_init(Spin *spin) noexcept
    void spin_worked(Spin *spin, uint64_t waited_ns, uint32_t len) noexcept
    uint64_t spin_for(const Spin *spin, uint64_t now_ns) noexcept
    bint spin_watch(const Spin *spin, uint64_t now_ns) noexcept
    void spin_clock(Spin *spin, uint64_t now_ns, uint64_t cpu_ns) noexcept
    void spin_end(Spin *spin) noexcept
