"""A second device model: a PCI device with one page of scratch memory and one interrupt.

It exists to show that a model needs only emudev, pci and what the transport calls.  A write to
FIRE raises vector 0; a write to STORE_AT copies the first 8 bytes of the page to that IOVA.
"""

import os
from collections.abc import Sequence
from typing import Any

from emuiavf._dma import MemTable
from emuiavf.emudev import registry, vdev
from emuiavf.emudev.device import ProviderOps
from emuiavf.emudev.info import (
    DeviceDescription,
    DeviceInfo,
    MemRegion,
    RegionInfo,
    ResetReason,
)
from emuiavf.emudev.vdev import Option
from emuiavf.loop import Loop
from emuiavf.pci.config_space import CONFIG_SIZE, Bar, ConfigSpace, Identity
from emuiavf.pci.msix import Msix, MsixLayout

SIZE = 4096
FIRE = 0xFFC
STORE_AT = 0xFF0
BAR0, BAR2, CONFIG = 0, 2, 7
MSIX = 2


class ScratchDevice(ProviderOps):
    """Satisfies `DeviceOps`; `fill` is what the page holds after a reset."""

    def __init__(self, name: str, options: dict[str, Any], loop: Loop) -> None:
        self._fill = options["fill"]
        self._page = bytearray([self._fill] * SIZE)
        self._eventfd = -1
        layout = MsixLayout(1, bar=BAR2, pba_offset=0x800)
        self.msix = Msix(layout, self._send)
        self.config = ConfigSpace(
            Identity(0x1234, 0x5678, 0x00FF00),
            {BAR0: Bar(SIZE), BAR2: Bar(SIZE, is64=False, prefetch=False)},
            layout,
            on_command=lambda old, new: self.emu.set_bus_master(self.config.bus_master),
            on_flr=lambda: self.reset(ResetReason.FLR),
            on_msix=self.msix.set_control,
        )
        self.emu = registry.allocate(DeviceInfo(name, "emu_scratch", 1, 1, 1), MemTable(), self)

    def close(self) -> None:
        self._set_eventfd(None)

    def describe(self) -> DeviceDescription:
        regions = [RegionInfo()] * 9
        regions[BAR0] = regions[BAR2] = RegionInfo(SIZE)
        regions[CONFIG] = RegionInfo(CONFIG_SIZE)
        return DeviceDescription(tuple(regions), (0, 0, 1, 0, 0))

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        if region == CONFIG:
            return self.config.read(offset, count)
        if region == BAR2:
            return self.msix.read(offset, count)
        return bytes(self._page[offset : offset + count])

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region == CONFIG:
            self.config.write(offset, data)
        elif region == BAR2:
            self.msix.write(offset, data)
        else:
            self._page[offset : offset + len(data)] = data
            if offset == FIRE:
                self.trigger_irqs(MSIX, [0])
            elif offset == STORE_AT and self.config.bus_master:
                self.emu.mem.write(int.from_bytes(data, "little"), bytes(self._page[:8]))

    def dma_map(self, region: MemRegion, fd: int | None, offset: int) -> None:
        self.emu.mem.map(region.iova, region.size, region.prot, fd, offset)

    def dma_unmap(self, iova: int, size: int) -> None:
        self.emu.mem.unmap(iova, size)
        self._memory_changed()

    def dma_unmap_all(self) -> None:
        self.emu.mem.unmap_all()
        self._memory_changed()

    def set_irq_eventfds(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        self._set_eventfd(fds[0])

    def disable_irqs(self, index: int) -> None:
        self._set_eventfd(None)

    def trigger_irqs(self, index: int, vectors: Sequence[int]) -> None:
        if self.msix.is_masked(0) or self._eventfd < 0:
            self.msix.set_pending(0)
        else:
            self._send(0)

    def mask_irqs(self, index: int, vectors: Sequence[int], masked: bool) -> None:
        """MSI-X is masked in its table."""

    def reset(self, reason: ResetReason) -> None:
        self._page[:] = bytes([self._fill] * SIZE)
        self.msix.reset()
        self.emu.reset()
        if reason is not ResetReason.FLR:
            self.config.reset()

    def attached(self) -> None:
        self.emu.record_attr("client", "yes")

    def detached(self) -> None:
        self._set_eventfd(None)
        self.dma_unmap_all()
        self.reset(ResetReason.DISCONNECT)

    def _memory_changed(self) -> None:
        self.emu.memory_changed()
        self.emu.mem.reclaim()

    def _set_eventfd(self, fd: int | None) -> None:
        if self._eventfd >= 0:
            os.close(self._eventfd)
        self._eventfd = -1 if fd is None else fd

    def _send(self, vector: int) -> None:
        os.eventfd_write(self._eventfd, 1)


MODEL = registry.Model({"fill": Option(vdev.integer(0, 255), 0)}, ScratchDevice)
