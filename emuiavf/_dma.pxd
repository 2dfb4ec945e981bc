"""Guest memory of one device; who looks at it has the table of include/mem.h from here."""

from libc.stdint cimport uint8_t, uint64_t
from emuiavf._dma_extents cimport (
    MEM_READ, MEM_WRITE, Extent, MemMap, MemReach, mem_find, mem_reach, mem_reached, mem_translate,
)
from emuiavf._dma_pages cimport Arena


cdef class MemTable:
    # Published with store_seq_ptr; never NULL (an empty map when nothing is mapped).
    cdef MemMap *mem_map
    # 1 once a page of a mapping has vanished (SIGBUS guard); workers and control both may read it.
    cdef readonly bint broken
    cdef Arena _arena
    cdef list _starts      # IOVA of each map, ascending: what bisect looks at
    cdef list _mappings    # the Mapping of each
    cdef list _retired     # Pages and Tables that a worker may still be using
    cdef tuple _regions    # cache of `regions`, or None
    cdef object __weakref__

    cdef _publish(self, MemMap *fresh)
    cdef const Extent *_whole(self, iova, size, uint64_t prot) except? NULL
    cdef _copy(self, uint64_t iova, uint8_t *buffer, uint64_t size, bint to_guest)
    cdef _remove(self, Py_ssize_t first, Py_ssize_t last)
