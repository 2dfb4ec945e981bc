"""See _dma_pages.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from *:
    """
    typedef struct GuardOwner GuardOwner;
    typedef struct GuardSlot GuardSlot;
    """
    ctypedef struct GuardOwner:
        pass
    ctypedef struct GuardSlot:
        pass


# What addresses and lengths of maps are multiples of.
cdef uint64_t PAGE


cdef class Window:
    cdef uint8_t *base
    cdef void *reserved
    cdef size_t reserved_size
    # Places whose map is gone but whose pages are still in use: (offset, end), ascending.
    cdef list leaving

    cdef bint is_free(self, uint64_t offset, uint64_t size)


cdef class Pages:
    cdef uint8_t *base
    cdef size_t size
    cdef uint8_t *host  # of the map's first byte: `base` may be of a page before
    cdef GuardSlot *slot
    cdef GuardOwner *owner
    cdef Window window  # None: a mapping of its own
    cdef tuple place    # in window.leaving, once the map is gone

    cdef vacate(self)
    cdef tuple span(self)
    cdef leave(self)


cdef class Arena:
    cdef GuardOwner *owner
    cdef dict windows  # number of a window of IOVA space -> Window

    # `broken` is set to 1 when a page vanishes, and must live as long as the arena.
    @staticmethod
    cdef Arena of(uint32_t *broken, int fault_fd)
    # The pages of a DMA_MAP.  PeerError when they cannot be had.
    cdef Pages lay(self, uint64_t iova, uint64_t size, uint64_t prot, int fd, uint64_t offset)
    cdef Window window_of(self, uint64_t iova, uint64_t size)
    # How many pages have vanished.
    cdef uint64_t faults(self)
    # No map and no retired page is left.
    cdef clear(self)
