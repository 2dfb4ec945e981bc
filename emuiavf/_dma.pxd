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


cdef extern from *:
    """typedef struct GuardOwner GuardOwner;"""
    ctypedef struct GuardOwner:
        pass


cdef class MemTable:
    # Published with store_seq_ptr; never NULL (an empty map when nothing is mapped).
    cdef MemMap *mem_map
    # 1 once a page of a mapping has vanished (SIGBUS guard); workers and control both may read it.
    cdef readonly bint broken
    cdef GuardOwner *_owner
    cdef list _starts      # IOVA of each map, ascending: what bisect looks at
    cdef list _mappings    # the Mapping of each
    cdef dict _windows     # number of a window of IOVA space -> Window
    cdef list _retired     # Pages and Tables that a worker may still be using
    cdef tuple _regions    # cache of `regions`, or None
    cdef object __weakref__

    cdef _publish(self, MemMap *fresh)
    cdef const Extent *_whole(self, iova, size, uint64_t prot) except? NULL
    cdef _copy(self, uint64_t iova, uint8_t *buffer, uint64_t size, bint to_guest)
    cdef _remove(self, Py_ssize_t first, Py_ssize_t last)
