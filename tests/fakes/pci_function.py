"""A PCI function with nothing in it, for tests of the transport."""

import errno
import os
import threading
from collections.abc import Sequence
from typing import Any

from emuiavf.emudev.info import DeviceDescription, MemRegion, MmapArea, RegionInfo, ResetReason
from emuiavf.errors import PeerError

BAR0_SIZE = 0x10000
BAR3_SIZE = 0x4000
CONFIG_SIZE = 4096
AREAS = (MmapArea(0, 0x1000), MmapArea(0x2000, 0x1000))
MSIX_VECTORS = 32


class PciFunction:
    """DeviceOps by shape: plain memory for regions, and `calls` of everything else.

    BAR0 has two mappable areas, BAR3 none, the ROM can only be read, BAR2 has only a file.
    `refuse[name]` is raised by the call of that name.  Takes ownership of fds as a device does.
    """

    def __init__(self) -> None:
        self.memfd = os.memfd_create("bar0")
        os.ftruncate(self.memfd, BAR0_SIZE)
        self.memory = {
            0: bytearray(BAR0_SIZE),
            3: bytearray(BAR3_SIZE),
            6: bytearray(2048),
            7: bytearray(CONFIG_SIZE),
        }
        self.memory[7][:4] = b"\x86\x80\x89\x18"
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: dict[str, PeerError] = {}
        self.maps: list[MemRegion] = []
        self.fds: dict[tuple[int, int], int] = {}
        self.resettable = True
        self.areas: tuple[MmapArea, ...] = AREAS
        self.gone = threading.Event()

    def describe(self) -> DeviceDescription:
        absent = RegionInfo()
        bar0 = RegionInfo(BAR0_SIZE, areas=self.areas, fd=self.memfd)
        rom = RegionInfo(2048, writable=False)
        bars = (bar0, absent, absent, RegionInfo(BAR3_SIZE), absent, absent)
        regions = (*bars, rom, RegionInfo(CONFIG_SIZE), absent)
        return DeviceDescription(regions, (1, 0, MSIX_VECTORS, 1, 1), self.resettable)

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        self._called("region_read", region, offset, count)
        return bytes(self.memory[region][offset : offset + count])

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        self._called("region_write", region, offset, data)
        self.memory[region][offset : offset + len(data)] = data

    def dma_map(self, region: MemRegion, fd: int | None, offset: int) -> None:
        if fd is not None:
            os.close(fd)
        self._called("dma_map", region, fd is not None, offset)
        self.maps.append(region)

    def dma_unmap(self, iova: int, size: int) -> None:
        self._called("dma_unmap", iova, size)
        self.maps = [m for m in self.maps if not (iova <= m.iova < iova + size)]

    def dma_unmap_all(self) -> None:
        self._called("dma_unmap_all")
        self.maps = []

    def set_irq_eventfds(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        for vector, fd in enumerate(fds, start):
            self._drop((index, vector))
            if fd is not None:
                self.fds[index, vector] = fd
        self._called("set_irq_eventfds", index, start, [fd is not None for fd in fds])

    def disable_irqs(self, index: int) -> None:
        for key in [key for key in self.fds if key[0] == index]:
            self._drop(key)
        self._called("disable_irqs", index)

    def trigger_irqs(self, index: int, vectors: Sequence[int]) -> None:
        self._called("trigger_irqs", index, list(vectors))
        for vector in vectors:
            if (index, vector) not in self.fds:
                raise PeerError(f"vector {vector} has no eventfd", errno.ENOENT)
            os.eventfd_write(self.fds[index, vector], 1)

    def mask_irqs(self, index: int, vectors: Sequence[int], masked: bool) -> None:
        self._called("mask_irqs", index, list(vectors), masked)

    def reset(self, reason: ResetReason) -> None:
        self._called("reset", reason)

    def attached(self) -> None:
        self._called("attached")

    def detached(self) -> None:
        self._called("detached")
        self.maps = []
        for key in list(self.fds):
            self._drop(key)
        self.gone.set()

    def close(self) -> None:
        os.close(self.memfd)

    def _called(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.refuse:
            raise self.refuse[name]

    def _drop(self, key: tuple[int, int]) -> None:
        if key in self.fds:
            os.close(self.fds.pop(key))
