"""Python face of a generator's bursts, for tests; nothing in the product imports it."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from emuiavf.datapath._frame cimport Burst, Frame
from emuiavf.ports._gen cimport CPU_AVX2, CPU_BASE, Generator, generate_use


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


KINDS = {"base": CPU_BASE, "avx2": CPU_AVX2}


cdef class Bursts:
    """Bursts of a generator that is connected to nothing."""

    cdef Burst *burst
    cdef Generator generator

    def __cinit__(self, Generator generator):
        self.generator = generator
        self.burst = <Burst *>aligned_alloc(64, sizeof(Burst))
        if self.burst == NULL:
            raise MemoryError
        # What an earlier turn left behind.
        memset(self.burst, 0xA5, sizeof(Burst))

    def __dealloc__(self):
        free(self.burst)

    def use(self, str name) -> bool:
        """Force one of KINDS; False when the CPU lacks it."""
        return generate_use(&self.generator._gen.common, KINDS[name])

    def take(self, uint64_t first, uint64_t now_ns) -> list[tuple[bytes, dict[str, int]]]:
        """The burst that begins with frame `first`, counted over all flows: of each frame the bytes
        and what it says of itself."""
        cdef Frame *frame
        cdef int i, count
        self.generator._gen.next = first
        self.burst.whole = 0
        self.burst.now_ns = now_ns
        count = self.generator._gen.source.take(&self.generator._gen.source, self.burst)
        made = []
        for i in range(count):
            frame = &self.burst.frames[i]
            data = frame.head[:frame.head_len]
            if frame.num_segs:
                data += frame.segs.data[:frame.segs.len]
            made.append((data, {
                "len": frame.len, "flags": frame.flags, "hash": frame.hash, "cursor": frame.cursor,
                "l2_len": frame.l2_len, "l3_len": frame.l3_len, "l4_len": frame.l4_len,
                "mss": frame.mss, "ptype": frame.ptype, "l4_proto": frame.l4_proto,
                "vlan_tci": frame.vlan_tci, "dst_mac": frame.dst_mac,
                "whole": self.burst.whole >> i & 1,
            }))
        return made
