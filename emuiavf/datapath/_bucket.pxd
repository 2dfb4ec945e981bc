"""Declarations of include/bucket.h for Cython; see there."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "bucket.h" nogil:
    uint64_t BUCKET_DEPTH_NS
    uint64_t BUCKET_BITS

    ctypedef struct Bucket:
        uint32_t rate
        uint64_t paid_ns

    uint64_t bucket_saved(const Bucket *bucket, uint64_t now) noexcept
    uint64_t bucket_due(const Bucket *bucket) noexcept
    void bucket_pay(Bucket *bucket, uint64_t *owed, uint64_t bytes, uint64_t now) noexcept
