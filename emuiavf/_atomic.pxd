"""Declarations of include/atomics.h for Cython."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "atomics.h" nogil:
    uint32_t load_acquire_u32(const uint32_t *p) noexcept
    uint64_t load_acquire_u64(const uint64_t *p) noexcept
    uint32_t load_relaxed_u32(const uint32_t *p) noexcept
    uint64_t load_relaxed_u64(const uint64_t *p) noexcept
    uint32_t load_seq_u32(const uint32_t *p) noexcept
    void store_release_u32(uint32_t *p, uint32_t v) noexcept
    void store_release_u64(uint64_t *p, uint64_t v) noexcept
    void store_relaxed_u32(uint32_t *p, uint32_t v) noexcept
    void store_relaxed_u64(uint64_t *p, uint64_t v) noexcept
    void store_seq_u32(uint32_t *p, uint32_t v) noexcept
    uint32_t exchange_u32(uint32_t *p, uint32_t v) noexcept
    uint32_t add_u32(uint32_t *p, uint32_t v) noexcept
    uint32_t or_u32(uint32_t *p, uint32_t v) noexcept
    void add_relaxed_u64(uint64_t *p, uint64_t v) noexcept
    void spin_lock(uint32_t *p) noexcept
    void spin_unlock(uint32_t *p) noexcept
    int swap_if_u32(uint32_t *p, uint32_t seen, uint32_t wanted) noexcept
    int take_one(uint32_t *p) noexcept
    void add_relaxed_from_u64(uint64_t *p, uint64_t floor, uint64_t v) noexcept
    void *load_acquire_ptr(void **p) noexcept
    void *load_relaxed_ptr(void **p) noexcept
    void store_seq_ptr(void **p, void *v) noexcept
    void fence_seq() noexcept
    void cpu_pause() noexcept
