"""Python face of the loops over plain frames, for tests; nothing in the product imports it.

They are compiled into every extension that uses them, so `use` changes this module's own copy and
nobody else's.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemReach, mem_reach
from emuiavf.datapath._frame cimport BURST_FRAMES, FRAME_HEAD, FRAME_HEADROOM, Burst, Frame


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


cdef extern from "txplain.h" nogil:
    enum:
        CPU_BASE
        CPU_AVX2
    ctypedef struct PlainRun:
        uint8_t *hosts[32]
        uint32_t lens[32]
        uint32_t reports
    ctypedef struct PlainReach:
        uint32_t longest
    PlainReach plain_reach(const Extent *hint) noexcept
    unsigned plain_scan(const uint64_t *desc, unsigned limit, const PlainReach *reach,
                        PlainRun *run) noexcept
    unsigned plain_fill(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                        uint32_t slot, uint32_t *budget) noexcept
    bint tx_plain_use(int kind) noexcept


cdef extern from "rxplain.h" nogil:
    unsigned plain_buffers(const uint8_t *desc, unsigned count, const MemReach *reach,
                           uint8_t **buffers) noexcept
    uint32_t plain_copy(Burst *burst, uint32_t mask, unsigned count, uint8_t **buffers,
                        Frame **frames, uint32_t *flags, uint64_t *bytes) noexcept
    bint rx_plain_use(int kind) noexcept


cdef extern from "judge.h" nogil:
    uint32_t plain_judge(Burst *burst, uint32_t mask, bint verdict) noexcept
    bint plain_judge_use(int kind) noexcept


KINDS = {"base": CPU_BASE, "avx2": CPU_AVX2}


def use(str name) -> bool:
    """Force one of KINDS for this module; False when the CPU lacks it."""
    cdef int kind = KINDS[name]
    return tx_plain_use(kind) and rx_plain_use(kind) and plain_judge_use(kind)


cdef class Plain:
    """A burst over `memory`, which a guest has mapped at `iova`."""

    cdef Burst *burst
    cdef Extent extent
    cdef PlainRun run
    cdef readonly object memory

    def __cinit__(self, uint8_t[::1] memory, uint64_t iova):
        self.memory = memory
        self.extent = Extent(iova, memory.shape[0], &memory[0], MEM_READ | MEM_WRITE)
        self.burst = <Burst *>aligned_alloc(64, sizeof(Burst))
        if self.burst == NULL:
            raise MemoryError
        # What an earlier turn left behind.
        memset(self.burst, 0xA5, sizeof(Burst))
        self.burst.num_segs = self.burst.whole = 0

    def __dealloc__(self):
        free(self.burst)

    def scan(self, const uint64_t[::1] descriptors) -> tuple[list[tuple[int, int]], int]:
        """(offset in memory, length) of the leading plain frames, and the bits of their RS."""
        cdef PlainReach reach = plain_reach(&self.extent)
        cdef unsigned i, count
        count = plain_scan(
            &descriptors[0], <unsigned>(descriptors.shape[0] // 2), &reach, &self.run)
        return ([(<int>(self.run.hosts[i] - self.extent.host), int(self.run.lens[i]))
                 for i in range(count)], int(self.run.reports))

    def fill(self, unsigned first, unsigned count, uint32_t slot, uint32_t budget) -> int:
        """The first `count` frames of what was scanned, as far as the budget goes; how many."""
        return plain_fill(self.burst, first, &self.run, count, slot, &budget)

    def set(self, unsigned index, const uint8_t[::1] data, uint32_t flags=0) -> None:
        """Make frame number `index` one that lies wholly in its head."""
        cdef Frame *frame = &self.burst.frames[index]
        memset(frame, 0, sizeof(Frame))
        frame.head = self.burst.heads[index] + FRAME_HEADROOM
        frame.len = <uint32_t>min(data.shape[0], FRAME_HEAD)
        frame.head_len = <unsigned short>frame.len
        frame.flags = flags
        memcpy(frame.head, &data[0], frame.len)

    def frame(self, unsigned index) -> dict[str, object]:
        """What a frame says of itself; `segs` is offset in memory and length of its segment."""
        cdef const Frame *frame = &self.burst.frames[index]
        segs = None
        if frame.num_segs:
            segs = (<int>(frame.segs.data - self.extent.host), int(frame.segs.len))
        return {
            "head": frame.head[:frame.head_len], "segs": segs, "len": frame.len,
            "flags": frame.flags, "hash": frame.hash, "cursor": frame.cursor,
            "l2_len": frame.l2_len, "l3_len": frame.l3_len, "l4_len": frame.l4_len,
            "mss": frame.mss, "next_slot": frame.next_slot, "ptype": frame.ptype,
            "l4_proto": frame.l4_proto, "dst_mac": frame.dst_mac,
        }

    @property
    def whole(self) -> int:
        return self.burst.whole

    def judge(self, uint32_t mask, bint verdict) -> int:
        """Those of `mask` that are plain: they have been parsed, and judged with `verdict`."""
        return plain_judge(self.burst, mask, verdict)

    def buffers(self, const uint64_t[::1] descriptors, uint64_t size) -> list[int]:
        """Offsets of the leading buffers of Rx descriptors in which `size` bytes have room."""
        cdef uint8_t *found[BURST_FRAMES]
        cdef MemReach reach = mem_reach(&self.extent, size, MEM_WRITE)
        cdef unsigned i, count = plain_buffers(
            <const uint8_t *>&descriptors[0], <unsigned>(descriptors.shape[0] // 4), &reach, found)
        return [<int>(found[i] - self.extent.host) for i in range(count)]

    def copy(self, uint32_t mask, list offsets) -> tuple[list[int], int, int]:
        """Copy the first frames of `mask` to offsets of the memory; their flags, the flags that any
        of them has, and their bytes."""
        cdef uint8_t *into[BURST_FRAMES]
        cdef Frame *frames[BURST_FRAMES]
        cdef uint32_t flags[BURST_FRAMES]
        cdef uint64_t bytes = 0
        cdef uint32_t seen
        cdef unsigned i, count = <unsigned>len(offsets)
        if count == 0:
            raise ValueError("nowhere to copy to")
        for i in range(count):
            into[i] = self.extent.host + <uint64_t>offsets[i]
        seen = plain_copy(self.burst, mask, count, into, frames, flags, &bytes)
        return [int(flags[i]) for i in range(count)], int(seen), int(bytes)
