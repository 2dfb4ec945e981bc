"""Guest memory of one device: IOVA to host pointer, for workers and for control.

Maps are laid into reserved windows of address space at a constant distance from their IOVA, so
that adjacent ones form one extent and a frame or ring may cross them.  Control changes the table
by building a new one and publishing its pointer; what it took away is kept until reclaim().
A page whose file has shrunk is replaced by include/sigbus.h and reported, never fatal.
Knows nothing of rings or messages.  vfio-user 4.2, 4.3 (DMA_MAP, DMA_UNMAP).
"""

import os
import stat
from bisect import bisect_left, insort

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo, PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE,
    PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)

from emuiavf._atomic cimport store_relaxed_u32, store_seq_ptr

import errno as _errno
import fcntl

import numpy as np

from emuiavf.emudev.info import DmaProt, MemRegion
from emuiavf.errors import MemoryFault, PeerError


cdef extern from "sigbus.h" nogil:
    ctypedef struct GuardSlot:
        pass

    int guard_install() noexcept
    GuardSlot *guard_register(void *start, size_t size, size_t page_size, int prot,
                              GuardOwner *owner) noexcept
    void guard_remove(GuardSlot *slot) noexcept
    GuardOwner *guard_owner_new(uint32_t *broken, int fault_fd) noexcept
    void guard_owner_keep(GuardOwner *owner) noexcept
    void guard_owner_orphan(GuardOwner *owner) noexcept
    uint64_t guard_owner_faults(const GuardOwner *owner) noexcept
    uint64_t guard_owner_ranges(const GuardOwner *owner) noexcept
    uint64_t guard_ranges() noexcept
    void guard_owner_drop(GuardOwner *owner) noexcept

cdef extern from "<sys/mman.h>" nogil:
    int MADV_DONTDUMP
    int MAP_FIXED_NOREPLACE

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct statfs_s "statfs":
        long f_type
        long f_bsize
    int fstatfs(int fd, statfs_s *out)


def mappings_of_a_process() -> int:
    """The kernel's limit, or what it is by default where that cannot be read."""
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            return max(int(file.read()), 2 * RESERVED_MAPPINGS)
    except OSError:
        return 65530


# For libraries, stacks, the heap, and pages that were replaced by the SIGBUS guard.
RESERVED_MAPPINGS = 8192
# Four windows for each of 64 devices take half of the 47 bits that a process has.
cdef uint64_t WINDOW_SIZE = 1ULL << 38
cdef int MAX_WINDOWS = 4
# Windows begin at a multiple of the largest page there is.
cdef uint64_t WINDOW_ALIGN = 1ULL << 30
cdef uint64_t PAGE = os.sysconf("SC_PAGESIZE")
cdef int MAX_MAPS = 65535
# Maps with an fd of all devices together.  The kernel limits the mappings of a process, and one
# more than that ends it: no memory can be had.  A map in a window splits it, so it counts twice.
cdef uint64_t MAX_BACKED = (mappings_of_a_process() - RESERVED_MAPPINGS) // 2
cdef int RESERVE = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
cdef long HUGETLBFS_MAGIC = 0x958458F6
cdef object TOP = 1 << 64
# Of the map made last; 0 is nobody's.
cdef uint64_t _generation = 0
cdef tuple PROTS = tuple(DmaProt(bits) for bits in range(4))


@cython.no_gc
cdef class Window:
    """A reservation of host addresses for one aligned window of IOVA space."""

    cdef uint8_t *base
    cdef void *reserved
    cdef size_t reserved_size
    # Places whose map is gone but whose pages are still in use: (offset, end), ascending.
    cdef list leaving

    def __cinit__(self):
        self.leaving = []
        self.reserved_size = WINDOW_SIZE + WINDOW_ALIGN
        self.reserved = mmap(NULL, self.reserved_size, PROT_NONE,
                             RESERVE, -1, 0)
        if self.reserved == MAP_FAILED:
            self.reserved = NULL
            raise MemoryError
        self.base = <uint8_t *><uintptr_t>(
            (<uintptr_t>self.reserved + WINDOW_ALIGN - 1) & ~(WINDOW_ALIGN - 1))

    def __dealloc__(self):
        if self.reserved != NULL:
            munmap(self.reserved, self.reserved_size)

    cdef bint is_free(self, uint64_t offset, uint64_t size):
        """Whether nothing that is leaving still occupies [offset, offset + size)."""
        cdef Py_ssize_t i
        if not self.leaving:
            return True
        i = bisect_left(self.leaving, (offset + size, 0))
        return i == 0 or self.leaving[i - 1][1] <= offset


@cython.no_gc
cdef class Pages:
    """Host pages behind one map; they go when the last reference does.

    References: the map itself, the retired list, every numpy view.
    """

    cdef uint8_t *base
    cdef size_t size
    cdef GuardSlot *slot
    cdef GuardOwner *owner
    cdef Window window  # None: a mapping of its own
    cdef tuple place    # in window.leaving, once the map is gone

    def __dealloc__(self):
        if self.slot != NULL:
            guard_remove(self.slot)
        if self.owner != NULL:
            guard_owner_drop(self.owner)
        if self.base == NULL:
            return
        if self.window is None:
            munmap(self.base, self.size)
        else:
            self.vacate()

    cdef vacate(self):
        """Give the place in the window back."""
        if mmap(self.base, self.size, PROT_NONE,
                RESERVE | MAP_FIXED, -1, 0) == MAP_FAILED:
            # Out of mappings: without PROT_NONE in between the place could be taken by a
            # stranger, so the client's pages stay there and the place stays occupied.
            if self.place is None:
                insort(self.window.leaving, self.span())
            return
        if self.place is not None:
            del self.window.leaving[bisect_left(self.window.leaving, self.place)]

    cdef tuple span(self):
        cdef uint64_t offset = self.base - self.window.base
        return (offset, offset + self.size)

    cdef leave(self):
        """The map is gone: nothing new may be laid here while the pages are in use."""
        if self.window is not None:
            self.place = self.span()
            insort(self.window.leaving, self.place)


@cython.no_gc
cdef class Mapping:
    """One DMA_MAP of the client; `pages` is None when there is nothing to reach."""

    cdef uint64_t iova, size, prot
    cdef bint shared
    cdef Pages pages
    cdef uint8_t *host


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


# --- Tables: a change is a copy with a few extents in the middle replaced.

cdef uint64_t next_generation():
    global _generation
    _generation += 1
    return _generation


cdef MemMap *splice(const MemMap *old, uint32_t first, uint32_t last, const Extent *middle,
                    uint32_t num_middle) noexcept nogil:
    """A new table with extents [first, last) of `old` replaced; NULL without memory."""
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


# --- Files

cdef uint64_t file_page_size(int fd) except 0:
    """What mappings of the file must be multiples of: huge pages on hugetlbfs."""
    cdef statfs_s fs
    if fstatfs(fd, &fs) == 0 and fs.f_type == HUGETLBFS_MAGIC and fs.f_bsize > <long>PAGE:
        return fs.f_bsize
    return PAGE


def covers(int fd, offset, size):
    """Raise PeerError unless the file is long enough; returns whether it is a regular one.

    Devices and dma-bufs have no length to look at: they judge at mmap.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return False
    if offset > status.st_size or size > status.st_size - offset:
        raise PeerError(
            f"DMA_MAP: file of {status.st_size:#x} bytes does not cover "
            f"offset={offset:#x} size={size:#x}"
        )
    return True


def seal_against_shrinking(int fd):
    """Keep a client from shortening its memory under us, where the file lets us say so."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        if not seals & (fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        pass  # not a memfd, or opened read-only: the SIGBUS guard stands alone


cdef class MemTable:
    """The DMA maps of one device.

    `fault_fd` is an eventfd that is written (add 1) when a page vanishes; the table keeps a
    duplicate of it.  All methods are for the control thread; workers read `mem_map` and `broken`.
    """

    def __cinit__(self, int fault_fd=-1):
        cdef int error
        self._starts = []
        self._mappings = []
        self._windows = {}
        self._retired = []
        self.mem_map = <MemMap *>malloc(sizeof(MemMap))
        if self.mem_map == NULL:
            raise MemoryError
        self.mem_map.num_extents = 0
        self.mem_map.generation = next_generation()
        self._owner = guard_owner_new(<uint32_t *>&self.broken, fault_fd)
        if self._owner == NULL:
            raise OSError(errno, "the fault eventfd of a memory table")
        error = guard_install()
        if error:
            raise OSError(error, "SIGBUS handler")

    def __dealloc__(self):
        if self._owner != NULL:
            guard_owner_orphan(self._owner)
            guard_owner_drop(self._owner)
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
            regular = covers(fd, offset, size)
            seal_against_shrinking(fd)
            self._attach(mapping, fd, offset, regular)
            added.iova, added.size, added.prot = mapping.iova, mapping.size, mapping.prot
            added.host = mapping.host
            fresh = with_extent(self.mem_map, &added)
            if fresh == NULL:
                raise MemoryError
            self._publish(fresh)
        self._starts.insert(at, iova)
        self._mappings.insert(at, mapping)
        self._regions = None

    def _attach(self, Mapping mapping, int fd, uint64_t offset, bint regular):
        """Map the file pages, in the window of the IOVA when they fit there.

        What is no regular file stays outside: where a driver refuses an mmap, the kernel may
        already have taken the reservation away.
        """
        cdef uint64_t page_size = file_page_size(fd)
        cdef uint64_t skip = offset & (page_size - 1)
        cdef uint64_t length = mapping.size + skip
        cdef int prot = PROT_READ | (PROT_WRITE if mapping.prot & MEM_WRITE else 0)
        cdef int flags = MAP_SHARED | MAP_NORESERVE
        cdef uint64_t within = mapping.iova & (WINDOW_SIZE - 1)
        cdef Pages pages = Pages()
        cdef void *wanted = NULL
        cdef void *base
        cdef Window window = None
        # As many as are left for others: the share of one device is half of what is free to it,
        # whatever the ones before it have taken.
        if guard_owner_ranges(self._owner) + guard_ranges() >= MAX_BACKED:
            raise too_many()
        if length < mapping.size or length > (1ULL << 47):
            raise PeerError(f"DMA_MAP: size={mapping.size:#x} is too large", _errno.ENOSPC)
        length = (length + page_size - 1) & ~(page_size - 1)
        if regular and length == mapping.size and not (mapping.iova & (page_size - 1)):
            window = self._window(mapping.iova, mapping.size)
        if window is not None:
            wanted = window.base + within
            flags |= MAP_FIXED
        base = mmap(wanted, length, prot, flags, fd, offset - skip)
        if base == MAP_FAILED:
            error = errno
            if window is not None:
                mmap(wanted, length, PROT_NONE, RESERVE | MAP_FIXED_NOREPLACE, -1, 0)
            raise PeerError(
                f"DMA_MAP: mmap of offset={offset:#x} size={mapping.size:#x}: "
                f"{os.strerror(error)}", error
            )
        # From here on `pages` owns the mapping.
        pages.base, pages.size, pages.window = <uint8_t *>base, length, window
        guard_owner_keep(self._owner)
        pages.owner = self._owner
        pages.slot = guard_register(base, length, page_size, prot, self._owner)
        if pages.slot == NULL:
            raise too_many()
        madvise(base, length, MADV_DONTDUMP)
        mapping.pages = pages
        mapping.host = pages.base + skip

    def _window(self, uint64_t iova, uint64_t size):
        """The window that holds the range and has room at its place, or None."""
        cdef uint64_t number = iova // WINDOW_SIZE
        cdef Window window
        if (iova + size - 1) // WINDOW_SIZE != number:
            return None
        window = self._windows.get(number)
        if window is None and len(self._windows) < MAX_WINDOWS:
            try:
                window = Window()
            except MemoryError:
                return None
            self._windows[number] = window
        if window is None or not window.is_free(iova & (WINDOW_SIZE - 1), size):
            return None
        return window

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
            self._windows.clear()

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
        cdef uint64_t faults = guard_owner_faults(self._owner)
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
        if guard_owner_faults(self._owner) != faults:
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


cdef object too_many():
    return PeerError(
        f"DMA_MAP: no room for more maps in this process; vm.max_map_count allows {MAX_BACKED}, "
        "half of them to one device", _errno.ENOSPC
    )


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
