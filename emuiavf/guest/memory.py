"""Memory that a guest shares with the device: one memfd, one IOVA range, a small allocator."""

import fcntl
import mmap
import os
from dataclasses import dataclass
from typing import Self

PAGE = 4096


@dataclass(frozen=True)
class Block:
    """A piece of DMA memory: where the device finds it, and where we do."""

    iova: int
    offset: int
    view: memoryview

    @property
    def size(self) -> int:
        return len(self.view)


class DmaMemory:
    """A memfd of `size` bytes at IOVA `iova`, handed out first-fit in whole cache lines.

    The file is sealed against shrinking, so that no one can take the pages away.
    """

    def __init__(self, size: int, iova: int = 0x1_0000_0000) -> None:
        self.size = -(-size // PAGE) * PAGE
        self.iova = iova
        self.fd = os.memfd_create("emuiavf-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self.fd, self.size)
        self.view = memoryview(self._map)
        self._holes = [(0, self.size)]

    def alloc(self, size: int, align: int = PAGE) -> Block:
        """A zeroed block; MemoryError when no hole is large enough.  `align`: a power of two."""
        size = -(-size // 64) * 64
        for at, (start, length) in enumerate(self._holes):
            offset = -(-start // align) * align
            if offset + size <= start + length:
                rest = [(start, offset - start), (offset + size, start + length - offset - size)]
                self._holes[at : at + 1] = [hole for hole in rest if hole[1]]
                view = self.view[offset : offset + size]
                view[:] = bytes(size)
                return Block(self.iova + offset, offset, view)
        raise MemoryError(f"DMA memory: no hole for {size} of {self.size} bytes")

    def free(self, block: Block) -> None:
        """Give a block back; the device must not use it any more."""
        holes = sorted([*self._holes, (block.offset, block.size)])
        self._holes = holes[:1]
        for start, length in holes[1:]:
            last, last_length = self._holes[-1]
            if last + last_length == start:
                self._holes[-1] = (last, last_length + length)
            else:
                self._holes.append((start, length))

    def close(self) -> None:
        """Close the file; the mapping itself goes with the last view of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.view.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
