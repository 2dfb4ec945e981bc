"""BAR0 as a guest's messages see it: registers in private memory, doorbells in shared memory.

Knows where a register stands and which ones do something; what they do is told by hooks.
Accesses of any width and alignment are served, although drivers use aligned words only.
"""

from collections.abc import Callable

from emuiavf.iavf import regs
from emuiavf.iavf.doorbells import Doorbells
from emuiavf.pci.regs import RegisterFile

_WORD = 4


def _is_doorbell(offset: int) -> bool:
    return any(offset in bank for bank in regs.DOORBELL_BANKS)


class Bar0:
    """Register file of one VF.

    `on_write[offset]` is called behind a guest's write to the word at that offset,
    `before_read[offset]` ahead of its read.  `on_dyn_ctln(vector, value)` takes writes to
    VFINT_DYN_CTLN1, which are not stored here; `on_doorbell` follows a write to a tail or an ITR.
    """

    def __init__(self, doorbells: Doorbells) -> None:
        self.file = RegisterFile(
            regs.BAR0_SIZE, [r for r in regs.REGISTERS.values() if not _is_doorbell(r.offset)]
        )
        self.on_write: dict[int, Callable[[], None]] = {}
        self.before_read: dict[int, Callable[[], None]] = {}
        self.on_dyn_ctln: Callable[[int, int], None] = lambda vector, value: None
        self.on_doorbell: Callable[[], None] = lambda: None
        self._doorbells = doorbells

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`; VFINT_ICR01 is clear afterwards when it was among them."""
        words = range(offset & -_WORD, offset + count, _WORD) if count else range(0)
        for at, prepare in self.before_read.items():
            if at in words:
                prepare()
        data = self.file.read(offset, count)
        if regs.VFINT_ICR01.offset in words:
            self.file.set(regs.VFINT_ICR01, 0)
        if offset < regs.DOORBELLS_SIZE:
            data = self._read_doorbells(offset, data)
        return data

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write; bytes without a register are ignored."""
        self.file.write(offset, data)
        end = offset + len(data)
        for at in range(max(offset & -_WORD, regs.DOORBELLS_SIZE), end, _WORD):
            hook = self.on_write.get(at)
            if hook is not None:
                hook()
        if offset < regs.DOORBELLS_SIZE:
            self._write_doorbells(offset, data[: regs.DOORBELLS_SIZE - offset])

    def reset(self) -> None:
        """Every register has its reset value; doorbells are cleared by who stops the workers."""
        self.file.reset()

    def _read_doorbells(self, offset: int, data: bytes) -> bytes:
        """`data` with the parts that lie in a doorbell bank taken from there."""
        result = bytearray(data)
        for bank in regs.DOORBELL_BANKS:
            first, last = max(offset, bank.offset), min(offset + len(data), bank.end)
            if first < last:
                result[first - offset : last - offset] = self._doorbells.memory[first:last]
        return bytes(result)

    def _write_doorbells(self, offset: int, data: bytes) -> None:
        rung = False
        for bank in regs.DOORBELL_BANKS:
            first, last = max(offset, bank.offset), min(offset + len(data), bank.end)
            for at in range(first & -_WORD, last, _WORD):
                value = self._merged(at, offset, data)
                if bank is regs.VFINT_DYN_CTLN1:
                    self.on_dyn_ctln((at - bank.offset) // _WORD + 1, value)
                else:
                    self._doorbells.store(at, value)
                    rung = True
        if rung:
            self.on_doorbell()

    def _merged(self, at: int, offset: int, data: bytes) -> int:
        """The doorbell word at `at` after the bytes of `data`, which stand at `offset`, are in."""
        word = bytearray(self._doorbells.load(at).to_bytes(_WORD, "little"))
        first, last = max(at, offset), min(at + _WORD, offset + len(data))
        word[first - at : last - at] = data[first - offset : last - offset]
        return int.from_bytes(word, "little")
