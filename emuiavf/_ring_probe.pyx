"""Python face of the loops over plain frames, for tests; nothing in the product imports it.

They are compiled into every extension that uses them, so `use` changes this module's own copy and
nobody else's.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemReach, mem_reach
from emuiavf._rxplain cimport (
    PlainFrames, plain_back, plain_back_alike, plain_buffers, plain_copy, plain_copy_alike,
    rx_plain_use,
)
from emuiavf._txplain cimport (
    CPU_AVX2, CPU_BASE, PlainCommon, PlainReach, PlainRun, plain_common, plain_fill, plain_reach,
    plain_scan, tx_plain_use,
)
from emuiavf.datapath._frame cimport BURST_FRAMES, FRAME_HEAD, FRAME_HEADROOM, Burst, Frame
from emuiavf.datapath._judge cimport PlainWish, plain_judge, plain_judge_use
from emuiavf.datapath._toeplitz cimport ToeplitzKey, toeplitz_prepare, toeplitz_symmetric


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


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
    cdef ToeplitzKey key
    cdef object prepared  # what `key` was made of
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

    def fill(self, unsigned first, unsigned count, uint32_t slot,
             uint32_t budget) -> tuple[int, int, int, int]:
        """The first `count` frames of what was scanned, as far as the budget goes: how many, their
        bytes, and of their first eight bytes the bits that all have and those that any has."""
        cdef PlainCommon common = plain_common()
        cdef unsigned found = plain_fill(
            self.burst, first, &self.run, count, slot, budget, &common)
        return int(found), int(common.bytes), int(common.all), int(common.any)

    def set(self, unsigned index, const uint8_t[::1] data, uint32_t flags=0, uint32_t hash=0,
            uint8_t ptype=0) -> None:
        """Make frame number `index` one that lies wholly in its head."""
        cdef Frame *frame = &self.burst.frames[index]
        memset(frame, 0, sizeof(Frame))
        frame.head = self.burst.heads[index] + FRAME_HEADROOM
        frame.len = <uint32_t>min(data.shape[0], FRAME_HEAD)
        frame.head_len = <unsigned short>frame.len
        frame.flags = flags
        frame.hash = hash
        frame.ptype = ptype
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

    def judge(self, uint32_t mask, bint verdict, const uint8_t[::1] key=None, uint32_t hashed=0,
              bint symmetric=False) -> tuple[int, tuple[int, int] | None]:
        """Those of `mask` that are plain: they have been parsed, and judged with `verdict`.  And
        length and flags that all of them have, if that is known.

        `hashed`: bit per L4 protocol (Frame.l4_proto) whose flows are hashed with `key`, 52 bytes.
        """
        cdef PlainWish wish = PlainWish(NULL, hashed, verdict)
        if hashed:
            if key.shape[0] != 52:
                raise ValueError(f"key: {key.shape[0]} bytes, must be 52")
            if self.prepared != (bytes(key), symmetric):
                toeplitz_prepare(&self.key, &key[0])
                if symmetric:
                    toeplitz_symmetric(&self.key)
                self.prepared = (bytes(key), symmetric)
            wish.key = &self.key
        cdef uint64_t kind
        cdef uint32_t found = plain_judge(self.burst, mask, &wish, &kind)
        return int(found), (int(kind & 0xFFFFFFFF), int(kind >> 32)) if kind else None

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
        cdef PlainFrames plain
        cdef unsigned i, count = <unsigned>len(offsets)
        if count == 0:
            raise ValueError("nowhere to copy to")
        for i in range(count):
            into[i] = self.extent.host + <uint64_t>offsets[i]
        plain_copy(self.burst, mask, count, into, &plain)
        return ([int(plain.kinds[i] >> 32) for i in range(count)], int(plain.seen >> 32),
                int(plain.bytes))

    def copy_alike(self, unsigned first, uint32_t length, list offsets) -> None:
        """Copy frames from `first` on, all of that length, to offsets of the memory."""
        cdef uint8_t *into[BURST_FRAMES]
        cdef unsigned i, count = <unsigned>len(offsets)
        for i in range(count):
            into[i] = self.extent.host + <uint64_t>offsets[i]
        plain_copy_alike(&self.burst.frames[first], count, length, into)

    def back_alike(self, uint32_t rxdid, unsigned first, unsigned count) -> bytes:
        """The descriptors of `count` frames from `first` on, all of the first one's kind."""
        cdef uint8_t descriptors[32 * (BURST_FRAMES + 1)]
        cdef const Frame *frames = &self.burst.frames[first]
        memset(descriptors, 0xA5, sizeof(descriptors))
        plain_back_alike(rxdid, descriptors, frames, count,
                         frames.len | <uint64_t>frames.flags << 32)
        return descriptors[:32 * (count + 1)]

    def back(self, uint32_t rxdid, uint32_t mask, unsigned count) -> bytes:
        """The descriptors of the first `count` frames of `mask`, all wholly in their heads."""
        cdef uint8_t descriptors[32 * BURST_FRAMES]
        cdef uint8_t into[BURST_FRAMES * FRAME_HEAD]
        cdef uint8_t *buffers[BURST_FRAMES]
        cdef PlainFrames plain
        cdef unsigned i
        for i in range(<unsigned>BURST_FRAMES):
            buffers[i] = into + i * FRAME_HEAD
        memset(descriptors, 0xA5, sizeof(descriptors))
        plain_copy(self.burst, mask, count, buffers, &plain)
        plain_back(rxdid, descriptors, &plain, count)
        return descriptors[:32 * (count + 1)] if count < BURST_FRAMES else descriptors[:32 * count]
