"""Guest memory of one device: IOVA to host pointer, for workers and for control.

Control changes the table by building a new one (_dma_extents) and publishing its pointer; what it
took away, pages (_dma_pages) and tables, is kept until reclaim().  Knows nothing of rings or
messages.  vfio-user 4.2, 4.3 (DMA_MAP, DMA_UNMAP).
"""

import os
from bisect import bisect_left

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo, PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from emuiavf._atomic cimport store_relaxed_u32, store_seq_ptr
from emuiavf._dma_extents cimport (
    MEM_READ, MEM_WRITE, Extent, MemMap, mem_find, with_extent, without_range,
)
from emuiavf._dma_pages cimport PAGE, Arena, Pages

import errno as _errno

import numpy as np

from emuiavf.emudev.info import DmaProt, MemRegion
from emuiavf.errors import MemoryFault, PeerError


cdef int MAX_MAPS = 65535
cdef object TOP = 1 << 64
# Of the map made last; 0 is nobody's.
cdef uint64_t _generation = 0
cdef tuple PROTS = tuple(DmaProt(bits) for bits in range(4))


@cython.no_gc
cdef class Mapping:
    """One DMA_MAP of the client; `pages` is None when there is nothing to reach."""

    cdef uint64_t iova, size, prot
    cdef bint shared
    cdef Pages pages


@cython.no_gc
cdef class Table:
    """Frees a MemMap that is no longer published."""

    cdef MemMap *map

    def __dealloc__(self):
        free(self.map)


cdef class Export:
    """What a numpy view stands on: a run of bytes and the pages that must stay for it."""

    cdef list pages
    cdef uint8_t *start
    cdef Py_ssize_t size
    cdef bint readonly

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.size, self.readonly, flags)


cdef uint64_t next_generation():
    global _generation
    _generation += 1
    return _generation


cdef class MemTable:
    """The DMA maps of one device.

    `fault_fd` is an eventfd that is written (add 1) when a page vanishes; the table keeps a
    duplicate of it.  All methods are for the control thread; workers read `mem_map` and `broken`.
    """

    def __cinit__(self, int fault_fd=-1):
        self._starts = []
        self._mappings = []
        self._retired = []
        self.mem_map = <MemMap *>malloc(sizeof(MemMap))
        if self.mem_map == NULL:
            raise MemoryError
        self.mem_map.num_extents = 0
        self.mem_map.generation = next_generation()
        self._arena = Arena.of(<uint32_t *>&self.broken, fault_fd)

    def __dealloc__(self):
        free(self.mem_map)

    @property
    def regions(self) -> tuple[MemRegion, ...]:
        """Every map of the client, ascending; those without a file descriptor too."""
        cdef Mapping mapping
        if self._regions is None:
            self._regions = tuple([
                MemRegion(mapping.iova, mapping.size, PROTS[mapping.prot], mapping.shared)
                for mapping in self._mappings
            ])
        return self._regions

    @property
    def extents(self) -> tuple[tuple[int, int, int], ...]:
        """(iova, size, prot) of each run that a ring or buffer may lie in."""
        cdef Extent *extent
        cdef uint32_t i
        result = []
        for i in range(self.mem_map.num_extents):
            extent = &self.mem_map.extents[i]
            result.append((extent.iova, extent.size, extent.prot))
        return tuple(result)

    @property
    def retired(self) -> int:
        """How many page runs and old tables wait for reclaim()."""
        return len(self._retired)

    def clear_broken(self):
        """Forget that pages have vanished (they read as zero now)."""
        store_relaxed_u32(<uint32_t *>&self.broken, 0)

    def map(self, iova, size, prot, fd, offset):
        """DMA_MAP: [iova, iova + size) is `fd` from `offset` on; `fd` is closed in any case.

        Without an fd, or with neither protection bit, the map is listed in `regions` but cannot
        be reached.  Raises PeerError (EINVAL, EEXIST, ENOSPC, or mmap's own error); then nothing
        has changed.  No wait is needed: workers see the new range from their next turn on.
        """
        try:
            self._map(iova, size, prot, fd, offset)
        finally:
            if fd is not None:
                os.close(fd)

    def _map(self, iova, size, prot, fd, offset):
        cdef Mapping mapping
        cdef Extent added
        cdef MemMap *fresh
        cdef Py_ssize_t at
        check_numbers(iova, size, prot, offset)
        at = bisect_left(self._starts, iova)
        if (at < len(self._starts) and self._starts[at] - iova < size) or (
            at > 0 and iova - self._starts[at - 1] < (<Mapping>self._mappings[at - 1]).size
        ):
            raise PeerError(
                f"DMA_MAP: iova={iova:#x} size={size:#x} overlaps an earlier map", _errno.EEXIST
            )
        if len(self._starts) >= MAX_MAPS:
            raise PeerError(f"DMA_MAP: more than {MAX_MAPS} maps", _errno.ENOSPC)
        mapping = Mapping()
        mapping.iova, mapping.size, mapping.prot = iova, size, prot
        mapping.shared = fd is not None
        if fd is not None and prot:
            mapping.pages = self._arena.lay(iova, size, prot, fd, offset)
            added.iova, added.size, added.prot = mapping.iova, mapping.size, mapping.prot
            added.host = mapping.pages.host
            fresh = with_extent(self.mem_map, &added)
            if fresh == NULL:
                raise MemoryError
            self._publish(fresh)
        self._starts.insert(at, iova)
        self._mappings.insert(at, mapping)
        self._regions = None

    def unmap(self, iova, size):
        """DMA_UNMAP: take away every map wholly inside the range; returns how many.

        Workers lose sight of them at once; the pages stay until reclaim().
        """
        cdef Py_ssize_t first, last
        cdef Mapping mapping
        first = bisect_left(self._starts, iova)
        last = bisect_left(self._starts, iova + size)
        if last > first:
            mapping = self._mappings[last - 1]
            if mapping.iova + mapping.size > iova + size:
                last -= 1
        if last <= first:
            return 0
        self._remove(first, last)
        return last - first

    def unmap_all(self):
        """Take away every map, as unmap() does."""
        if self._starts:
            self._remove(0, len(self._starts))

    cdef _remove(self, Py_ssize_t first, Py_ssize_t last):
        cdef Mapping mapping = self._mappings[last - 1]
        cdef MemMap *fresh = without_range(self.mem_map, self._starts[first],
                                           mapping.iova + mapping.size)
        if fresh == NULL:
            raise MemoryError
        self._publish(fresh)
        for mapping in self._mappings[first:last]:
            if mapping.pages is not None:
                mapping.pages.leave()
                self._retired.append(mapping.pages)
        del self._starts[first:last]
        del self._mappings[first:last]
        self._regions = None

    cdef _publish(self, MemMap *fresh):
        cdef Table old = Table()
        old.map = self.mem_map
        fresh.generation = next_generation()
        # Sequentially consistent: ordered against the workers' "I am asleep" flags.
        store_seq_ptr(<void **>&self.mem_map, fresh)
        self._retired.append(old)

    def reclaim(self):
        """Unmap and free what was taken away; no worker may still be in a turn begun before.

        Pages under a numpy view stay until the view is gone.
        """
        self._retired.clear()
        if not self._starts:
            self._arena.clear()

    # --- Access from control

    cdef const Extent *_whole(self, iova, size, uint64_t prot) except? NULL:
        """The extent at `iova`, when all of the range is mapped with `prot`; else MemoryFault."""
        cdef const Extent *first
        cdef const Extent *extent
        cdef uint64_t left, part
        if not (0 <= iova < TOP and 0 <= size < TOP - iova):
            raise MemoryFault(f"no guest memory at iova={iova:#x} size={size:#x}")
        first = extent = mem_find(self.mem_map, iova)
        left = size
        part = 0 if extent == NULL else extent.size - (<uint64_t>iova - extent.iova)
        while extent != NULL and (extent.prot & prot) == prot:
            if left <= part:
                return first
            left -= part
            # Extents do not join when their host pages do not: a range may still run on.
            extent = mem_find(self.mem_map, extent.iova + extent.size)
            part = 0 if extent == NULL else extent.size
        wanted = "write" if prot & MEM_WRITE else "read"
        raise MemoryFault(f"guest memory at iova={iova:#x} size={size:#x} is not all mapped "
                          f"for {wanted}")

    cdef _copy(self, uint64_t iova, uint8_t *buffer, uint64_t size, bint to_guest):
        cdef const Extent *extent = self._whole(iova, size, MEM_WRITE if to_guest else MEM_READ)
        cdef uint64_t faults = self._arena.faults()
        cdef uint64_t at, part, done = 0
        while done < size:
            at = iova + done - extent.iova
            part = min(extent.size - at, size - done)
            if to_guest:
                memcpy(extent.host + at, buffer + done, part)
            else:
                memcpy(buffer + done, extent.host + at, part)
            done += part
            if done < size:
                extent = mem_find(self.mem_map, iova + done)
        if self._arena.faults() != faults:
            raise MemoryFault(f"guest memory at iova={iova:#x} size={size:#x} has vanished")

    def read(self, iova, size):
        """The bytes of [iova, iova + size).  Raises MemoryFault when not all of it is there."""
        self._whole(iova, size, MEM_READ)
        cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
        self._copy(iova, <uint8_t *>PyBytes_AS_STRING(result), size, False)
        return result

    def write(self, iova, data):
        """Store `data` (any contiguous buffer) at `iova`, or raise MemoryFault and store nothing.

        (A page that vanishes half way is the exception to "nothing".)
        """
        cdef Py_buffer buffer
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            self._whole(iova, buffer.len, MEM_WRITE)
            self._copy(iova, <uint8_t *>buffer.buf, buffer.len, True)
        finally:
            PyBuffer_Release(&buffer)

    def view(self, iova, size, bint writable=False):
        """A numpy array of bytes over guest memory, whose pages stay as long as the array does.

        The range must lie in one extent.  Raises MemoryFault.
        """
        cdef uint64_t prot = (MEM_READ | MEM_WRITE) if writable else MEM_READ
        cdef const Extent *extent = self._whole(iova, size, prot)
        cdef Export export = Export()
        cdef Mapping mapping
        cdef Py_ssize_t i
        if size > extent.size - (<uint64_t>iova - extent.iova):
            raise MemoryFault(f"guest memory at iova={iova:#x} size={size:#x} is not one extent")
        export.start = extent.host + (<uint64_t>iova - extent.iova)
        export.size = size
        export.readonly = not writable
        export.pages = []
        i = bisect_left(self._starts, iova + 1) - 1
        while i < len(self._starts) and self._starts[i] < iova + size:
            mapping = self._mappings[i]
            export.pages.append(mapping.pages)
            i += 1
        return np.frombuffer(export, np.uint8)


def check_numbers(iova, size, prot, offset):
    """What every DMA_MAP must satisfy, file or not."""
    if prot & ~(MEM_READ | MEM_WRITE):
        raise PeerError(f"DMA_MAP: unknown protection bits in {prot:#x}")
    if size <= 0 or iova < 0 or offset < 0 or iova >= TOP or size >= TOP - iova:
        raise PeerError(f"DMA_MAP: iova={iova:#x} size={size:#x} is not a range")
    if offset >= 1 << 63 or size >= (1 << 63) - offset:
        raise PeerError(f"DMA_MAP: offset={offset:#x} size={size:#x} is not a range of a file")
    if (iova | size | offset) & (PAGE - 1):
        raise PeerError(
            f"DMA_MAP: iova={iova:#x} size={size:#x} offset={offset:#x} not page aligned"
        )
