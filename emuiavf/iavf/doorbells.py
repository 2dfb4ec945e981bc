"""What a client may map of BAR0, as shared memory: the doorbell pages, or all of it.

Whatever stands in it is hostile input.  Control writes through it as well (a doorbell that came
by message), so both kinds of guest write meet in one place.
"""

import fcntl
import mmap
import os

from emuiavf.emudev.info import MmapArea
from emuiavf.iavf import regs

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Doorbells:
    """Pages 0x0000 to 0x3fff of BAR0, or, when it is shared as a whole, every page.

    `fd` backs them (file offset = offset in BAR0), `memory` is our view of them, `areas` are what
    a client is told.  Page 0x1000 is there to keep offsets equal and is not announced alone.
    """

    AREAS = tuple(MmapArea(page, regs.PAGE_SIZE) for page in regs.DOORBELL_PAGES)

    def __init__(self, name: str, *, whole: bool = False) -> None:
        size = regs.BAR0_SIZE if whole else regs.DOORBELLS_SIZE
        self.areas = (MmapArea(0, size),) if whole else self.AREAS
        self.fd = os.memfd_create(f"{name}-doorbells", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # A client that could shrink it would kill every process that maps it.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self.memory = memoryview(mmap.mmap(self.fd, size))
        self._words = self.memory.cast("I")

    def load(self, offset: int) -> int:
        """The word at `offset`, a multiple of four."""
        return self._words[offset // 4]

    def store(self, offset: int, value: int) -> None:
        """Write one whole word: a worker that looks sees the old or the new one."""
        self._words[offset // 4] = value

    def clear(self) -> None:
        """All doorbells 0; to be called when no worker looks at them."""
        self.memory[: regs.DOORBELLS_SIZE] = bytes(regs.DOORBELLS_SIZE)

    def close(self) -> None:
        """Give up fd and views; the pages stay until the last view elsewhere is gone."""
        self._words.release()
        self.memory.release()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
