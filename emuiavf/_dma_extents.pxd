"""Tables of extents: include/mem.h for who reads them, _dma_extents.pyx for who makes them."""

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
        uint64_t generation
        uint32_t num_extents
        Extent *extents

    const Extent *mem_find(const MemMap *map, uint64_t iova) noexcept
    uint8_t *mem_translate(const MemMap *map, const Extent **hint, uint64_t iova,
                           uint64_t len, uint64_t prot) noexcept

    ctypedef struct MemReach:
        pass

    MemReach mem_reach(const Extent *hint, uint64_t len, uint64_t prot) noexcept
    uint8_t *mem_reached(const MemReach *reach, uint64_t iova) noexcept


# The table with one more range, which no extent of it overlaps.
cdef MemMap *with_extent(const MemMap *old, const Extent *added) noexcept nogil
# The table without IOVAs [start, end).
cdef MemMap *without_range(const MemMap *old, uint64_t start, uint64_t end) noexcept nogil
