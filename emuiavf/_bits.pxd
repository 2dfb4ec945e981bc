"""Declarations of include/bits.h for Cython."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "bits.h" nogil:
    int lowest_bit(uint32_t word) noexcept
    int lowest_bit64(uint64_t word) noexcept
    uint32_t low_bits(uint32_t count) noexcept
    uint32_t first_bits(uint32_t word, uint32_t count) noexcept
    bint in_a_row(uint32_t word) noexcept
    int count_bits(uint32_t word) noexcept
    void prefetch_read(const void *p) noexcept
    void prefetch_write(const void *p) noexcept
