"""Host pages behind the maps of one device: where they are laid, and the guard over them.

Maps are laid into reserved windows of address space at a constant distance from their IOVA, so
that adjacent ones form one extent.  A page whose file has shrunk is replaced by include/sigbus.h
and reported, never fatal.
"""

import os
import stat
from bisect import bisect_left, insort

cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE,
    PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)

from emuiavf._dma_extents cimport MEM_WRITE

import errno as _errno
import fcntl

from emuiavf.errors import PeerError


cdef extern from "sigbus.h" nogil:
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
PAGE = os.sysconf("SC_PAGESIZE")
# Maps with an fd of all devices together.  The kernel limits the mappings of a process, and one
# more than that ends it: no memory can be had.  A map in a window splits it, so it counts twice.
cdef uint64_t MAX_BACKED = (mappings_of_a_process() - RESERVED_MAPPINGS) // 2
cdef int RESERVE = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
cdef long HUGETLBFS_MAGIC = 0x958458F6


@cython.no_gc
cdef class Window:
    """A reservation of host addresses for one aligned window of IOVA space."""

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


cdef object too_many():
    return PeerError(
        f"DMA_MAP: no room for more maps in this process; vm.max_map_count allows {MAX_BACKED}, "
        "half of them to one device", _errno.ENOSPC
    )


@cython.no_gc
cdef class Arena:
    """Where the maps of one device lie.  Its owner alone holds it: it must go before `broken`."""

    def __cinit__(self):
        self.windows = {}

    @staticmethod
    cdef Arena of(uint32_t *broken, int fault_fd):
        cdef Arena arena = Arena()
        cdef int error
        arena.owner = guard_owner_new(broken, fault_fd)
        if arena.owner == NULL:
            raise OSError(errno, "the fault eventfd of a memory table")
        error = guard_install()
        if error:
            raise OSError(error, "SIGBUS handler")
        return arena

    def __dealloc__(self):
        if self.owner != NULL:
            guard_owner_orphan(self.owner)
            guard_owner_drop(self.owner)

    cdef uint64_t faults(self):
        return guard_owner_faults(self.owner)

    cdef clear(self):
        self.windows.clear()

    cdef Pages lay(self, uint64_t iova, uint64_t size, uint64_t prot, int fd, uint64_t offset):
        """Map the file pages, in the window of the IOVA when they fit there.

        What is no regular file stays outside: where a driver refuses an mmap, the kernel may
        already have taken the reservation away.
        """
        cdef bint regular = covers(fd, offset, size)
        cdef uint64_t page_size = file_page_size(fd)
        cdef uint64_t skip = offset & (page_size - 1)
        cdef uint64_t length = size + skip
        cdef int rights = PROT_READ | (PROT_WRITE if prot & MEM_WRITE else 0)
        cdef int flags = MAP_SHARED | MAP_NORESERVE
        cdef uint64_t within = iova & (WINDOW_SIZE - 1)
        cdef Pages pages = Pages()
        cdef void *wanted = NULL
        cdef void *base
        cdef Window window = None
        seal_against_shrinking(fd)
        # As many as are left for others: the share of one device is half of what is free to it,
        # whatever the ones before it have taken.
        if guard_owner_ranges(self.owner) + guard_ranges() >= MAX_BACKED:
            raise too_many()
        if length < size or length > (1ULL << 47):
            raise PeerError(f"DMA_MAP: size={size:#x} is too large", _errno.ENOSPC)
        length = (length + page_size - 1) & ~(page_size - 1)
        if regular and length == size and not (iova & (page_size - 1)):
            window = self.window_of(iova, size)
        if window is not None:
            wanted = window.base + within
            flags |= MAP_FIXED
        base = mmap(wanted, length, rights, flags, fd, offset - skip)
        if base == MAP_FAILED:
            error = errno
            if window is not None:
                mmap(wanted, length, PROT_NONE, RESERVE | MAP_FIXED_NOREPLACE, -1, 0)
            raise PeerError(
                f"DMA_MAP: mmap of offset={offset:#x} size={size:#x}: "
                f"{os.strerror(error)}", error
            )
        # From here on `pages` owns the mapping.
        pages.base, pages.size, pages.window = <uint8_t *>base, length, window
        guard_owner_keep(self.owner)
        pages.owner = self.owner
        pages.slot = guard_register(base, length, page_size, rights, self.owner)
        if pages.slot == NULL:
            raise too_many()
        madvise(base, length, MADV_DONTDUMP)
        pages.host = pages.base + skip
        return pages

    cdef Window window_of(self, uint64_t iova, uint64_t size):
        """The window that holds the range and has room at its place, or None."""
        cdef uint64_t number = iova // WINDOW_SIZE
        cdef Window window
        if (iova + size - 1) // WINDOW_SIZE != number:
            return None
        window = self.windows.get(number)
        if window is None and len(self.windows) < MAX_WINDOWS:
            try:
                window = Window()
            except MemoryError:
                return None
            self.windows[number] = window
        if window is None or not window.is_free(iova & (WINDOW_SIZE - 1), size):
            return None
        return window
