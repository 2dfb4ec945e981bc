"""BAR0 as memory that the client maps whole (doorbell=shared): its stores become register writes.

For clients that cannot trap (DPDK until 22.11 maps BARs whole).  The private register file stays
the truth, and all logic works on it; what the device changes is shown in the shared memory, and
what the guest has stored there is taken over, word by word, as if it had come by message.  A word
is loaded once, so nothing that is judged can change afterwards.  VFINT_ICR01 is not cleared by
reading it here.  The doorbell pages and vector 0's DYN_CTL01 and ITR01 are the data path's.
"""

from collections.abc import Callable

from emuiavf._ring_watch import RegisterWatch
from emuiavf.iavf import regs
from emuiavf.iavf.bar0 import PRIVATE
from emuiavf.pci.regs import Register, RegisterFile

# What a worker looks for.  Tails first: whoever sees a new tail sees all that was stored before it.
WATCHED = (
    regs.ATQT1,
    regs.ARQT1,
    regs.VFINT_ICR0_ENA1,
    regs.ATQH1,
    regs.ARQH1,
    regs.ATQLEN1,
    regs.ARQLEN1,
    regs.ATQBAL1,
    regs.ATQBAH1,
    regs.ARQBAL1,
    regs.ARQBAH1,
)
_DATA_PATH = (regs.VFINT_DYN_CTL01.offset, *(regs.VFINT_ITR01.at(i) for i in range(regs.NUM_ITR)))
# Stored and read back; nobody has to act on them at once.
_STORED = tuple(r.offset for r in PRIVATE if r not in WATCHED and r.offset not in _DATA_PATH)
_WORD = 4


class SharedFile(RegisterFile):
    """The registers outside of the doorbell pages, shown in `memory`, which is all of BAR0.

    `watch` is what a worker looks at; it signals `fd` when `take` has something to do.
    """

    def __init__(self, memory: memoryview, fd: int) -> None:
        super().__init__(regs.BAR0_SIZE, PRIVATE)
        self._shown = (*(register.offset for register in WATCHED), *_STORED)
        self.watch = RegisterWatch(memory, self._shown[: len(WATCHED)], _STORED, fd)
        self._resets = 0
        self._show_all()

    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data)
        for at in range(offset & -_WORD, offset + len(data), _WORD):
            if at in self._shown:
                self.watch.show(at, self._word(at))

    def set(self, register: Register, value: int) -> None:
        super().set(register, value)
        if register.offset in self._shown:
            self.watch.show(register.offset, value)

    def reset(self) -> None:
        """What the guest has stored and nobody has taken yet is gone, too."""
        super().reset()
        self._resets += 1
        self._show_all()

    def take(self, write: Callable[[int, bytes], None]) -> None:
        """Carry out the guest's stores since the last look: `write(offset, data)` for each word.

        Tails come last, when what they announce is in place.  A reset on the way ends it: what
        was stored before counts for nothing then.
        """
        resets = self._resets
        for offset, value in reversed(self.watch.news()):
            if self._resets != resets:
                return
            write(offset, value.to_bytes(_WORD, "little"))

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._data[offset : offset + _WORD], "little")

    def _show_all(self) -> None:
        for at in self._shown:
            self.watch.force(at, self._word(at))
