"""The guest memory of one device from the client's side: maps, faults, and what to tell the user.

Knows when memory may be given back (after the data path's grace) and when the device is broken;
the table itself is `_dma.MemTable`.
"""

import errno
from collections.abc import Callable

from emuiavf._dma import MemTable
from emuiavf.emudev.info import MemRegion
from emuiavf.errors import PeerError
from emuiavf.iavf.guestlog import GuestLog

# A map of this size is a guest's RAM, not a ROM, a framebuffer or another device's BAR.
RAM_SIZE = 64 << 20
# Tables that wait to be freed before the next grace is asked for: DMA_MAP itself never waits.
MAX_RETIRED = 32

SHARE_ADVICE = (
    "guest memory is not shared with this process, so the device cannot reach it; start QEMU with "
    "-object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram "
    "(SIZE as in -m; memory-backend-file with share=on will do as well)"
)


class GuestRam:
    """What a client maps and unmaps.

    `changed()` returns when no worker uses what was unmapped before the call.
    """

    def __init__(self, mem: MemTable, changed: Callable[[], None], log: GuestLog) -> None:
        self._mem = mem
        self._changed = changed
        self._log = log
        self._advised = False
        self._reported = False

    @property
    def broken(self) -> bool:
        """Whether a page of the guest's memory has vanished since it was last mapped."""
        return self._mem.broken

    def map(self, region: MemRegion, fd: int | None, offset: int) -> None:
        """Map `region`; `fd` is closed in any case.  PeerError as `MemTable.map`."""
        self._mem.map(region.iova, region.size, region.prot, fd, offset)
        if fd is not None:
            self._forget_fault()
        elif region.size >= RAM_SIZE and not any(r.shared for r in self._mem.regions):
            self.advise()
        if self._mem.retired > MAX_RETIRED:
            self.settle()

    def unmap(self, iova: int, size: int) -> None:
        """Drop every map wholly inside; PeerError (ENOENT) when there is none."""
        if self._mem.unmap(iova, size) == 0:
            raise PeerError(f"DMA_UNMAP: nothing mapped in {iova:#x}+{size:#x}", errno.ENOENT)
        self.settle()

    def clear(self) -> None:
        """Drop every map."""
        self._mem.unmap_all()
        self.settle()

    def forget_client(self) -> None:
        """The client has gone: what it did wrong is no fault of the next one."""
        self.clear()
        self._forget_fault()
        self._advised = False

    def settle(self) -> None:
        """Give back what was unmapped, when no worker uses it any more."""
        self._changed()
        self._mem.reclaim()

    def suspect(self) -> None:
        """The guest has named memory that cannot be reached: say why, if that is the reason."""
        if any(not r.shared and r.size >= RAM_SIZE for r in self._mem.regions):
            self.advise()

    def advise(self) -> None:
        """Name the most common mistake, once per client."""
        if not self._advised:
            self._advised = True
            self._log.warning(SHARE_ADVICE)

    def take_fault(self) -> bool:
        """True once after a page has vanished."""
        if not self._mem.broken or self._reported:
            return False
        self._reported = True
        self._log.warning(
            "broken: a page of the guest's memory has vanished (its file was truncated); all "
            "queues are stopped until the memory is mapped anew or the client leaves"
        )
        return True

    def _forget_fault(self) -> None:
        self._reported = False
        if self._mem.broken:
            self._mem.clear_broken()
