"""Guest memory of one device: see include/mem.h for the table that workers read."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "mem.h" nogil:
    enum:
        MEM_READ
        MEM_WRITE

    ctypedef struct Extent:
        uint64_t iova
        uint64_t size
        uint8_t *host
        uint64_t prot

    ctypedef struct MemMap:
        uint32_t num_extents
        Extent *extents

    const Extent *mem_find(const MemMap *map, uint64_t iova) noexcept
    uint8_t *mem_translate(const MemMap *map, const Extent **hint, uint64_t iova,
                           uint64_t len, uint64_t prot) noexcept


cdef class MemTable:
    # Published with store_seq_ptr; never NULL (an empty map when nothing is mapped).
    cdef MemMap *map
    # 1 once a page of a mapping has vanished (SIGBUS guard); workers and control both may read it.
    cdef uint32_t broken
    cdef list _regions
    cdef list _retired
    cdef object __weakref__
