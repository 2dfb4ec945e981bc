"""Tables of extents: a change is a copy with a few extents in the middle replaced.

Each returns a new table, for MemTable to publish, or NULL without memory.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy


cdef MemMap *splice(const MemMap *old, uint32_t first, uint32_t last, const Extent *middle,
                    uint32_t num_middle) noexcept nogil:
    """Extents [first, last) of `old` replaced."""
    cdef uint32_t num = old.num_extents - (last - first) + num_middle
    cdef MemMap *fresh = <MemMap *>malloc(sizeof(MemMap) + num * sizeof(Extent))
    if fresh == NULL:
        return NULL
    fresh.num_extents = num
    memcpy(fresh.extents, old.extents, first * sizeof(Extent))
    memcpy(fresh.extents + first, middle, num_middle * sizeof(Extent))
    memcpy(fresh.extents + first + num_middle, old.extents + last,
           (old.num_extents - last) * sizeof(Extent))
    return fresh


cdef uint32_t lower_bound(const MemMap *map, uint64_t iova) noexcept nogil:
    """Number of extents that begin below `iova`."""
    cdef uint32_t low = 0, high = map.num_extents, middle
    while low < high:
        middle = low + (high - low) // 2
        if map.extents[middle].iova < iova:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint joins(const Extent *left, const Extent *right) noexcept nogil:
    return (left.iova + left.size == right.iova and left.host + left.size == right.host
            and left.prot == right.prot)


cdef MemMap *with_extent(const MemMap *old, const Extent *added) noexcept nogil:
    """The table with one more range, which no extent of it overlaps."""
    cdef uint32_t first = lower_bound(old, added.iova)
    cdef uint32_t last = first
    cdef Extent merged = added[0]
    if first > 0 and joins(&old.extents[first - 1], &merged):
        first -= 1
        merged.iova = old.extents[first].iova
        merged.host = old.extents[first].host
        merged.size += old.extents[first].size
    if last < old.num_extents and joins(&merged, &old.extents[last]):
        merged.size += old.extents[last].size
        last += 1
    return splice(old, first, last, &merged, 1)


cdef MemMap *without_range(const MemMap *old, uint64_t start, uint64_t end) noexcept nogil:
    """The table without IOVAs [start, end)."""
    cdef uint32_t first = lower_bound(old, start)
    cdef uint32_t last = lower_bound(old, end)
    cdef uint32_t num_rests = 0
    cdef Extent rests[2]
    cdef const Extent *extent
    if first > 0 and start - old.extents[first - 1].iova < old.extents[first - 1].size:
        first -= 1
    if first < last:
        extent = &old.extents[first]
        if extent.iova < start:
            rests[num_rests] = extent[0]
            rests[num_rests].size = start - extent.iova
            num_rests += 1
        extent = &old.extents[last - 1]
        if end - extent.iova < extent.size:
            rests[num_rests].iova = end
            rests[num_rests].host = extent.host + (end - extent.iova)
            rests[num_rests].size = extent.size - (end - extent.iova)
            rests[num_rests].prot = extent.prot
            num_rests += 1
    return splice(old, first, last, rests, num_rests)
