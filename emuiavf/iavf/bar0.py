"""BAR0 as a guest's messages see it: registers in private memory, doorbells in shared memory.

Knows where a register stands and which ones do something; what they do is told by hooks.
Accesses of any width and alignment are served, although drivers use aligned words only.
"""

from collections.abc import Callable

from emuiavf.iavf import regs
from emuiavf.iavf.doorbells import Doorbells
from emuiavf.pci.regs import RegisterFile

_WORD = 4
# Written often by guests whose doorbells are not mapped: one look-up for a whole word.
_DOORBELLS = frozenset(bank.at(i) for bank in regs.DOORBELL_BANKS for i in range(bank.count))
# What a register file is to hold of BAR0.
PRIVATE = tuple(r for r in regs.REGISTERS.values() if r.offset not in _DOORBELLS)
_DYN_CTLN = regs.VFINT_DYN_CTLN1.offset
_ICR01 = regs.VFINT_ICR01.offset


class Bar0:
    """Register file of one VF.

    `on_write[offset]` is called behind a guest's write to the word at that offset,
    `before_read[offset]` ahead of its read.  `on_dyn_ctln(vector, value)` takes writes to
    VFINT_DYN_CTLN1, which are not stored here; `on_doorbell` follows a write to a tail or an ITR.
    """

    def __init__(self, doorbells: Doorbells, file: RegisterFile | None = None) -> None:
        """`file` holds the registers outside of the doorbell pages; by default a private one."""
        self.file = file or RegisterFile(regs.BAR0_SIZE, PRIVATE)
        self.on_write: dict[int, Callable[[], None]] = {}
        self.before_read: dict[int, Callable[[], None]] = {_ICR01: lambda: None}
        self.on_dyn_ctln: Callable[[int, int], None] = lambda vector, value: None
        self.on_doorbell: Callable[[], None] = lambda: None
        self._doorbells = doorbells

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`; VFINT_ICR01 is clear afterwards when it was among them."""
        if offset < regs.DOORBELLS_SIZE:
            return self._read_doorbells(offset, count)
        if count == _WORD and offset % _WORD == 0 and offset not in self.before_read:
            return self.file.read(offset, _WORD)
        words = range(offset & -_WORD, offset + count, _WORD) if count else range(0)
        for at, prepare in self.before_read.items():
            if at in words:
                prepare()
        data = self.file.read(offset, count)
        if _ICR01 in words:
            self.file.set(regs.VFINT_ICR01, 0)
        return data

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write; bytes without a register are ignored."""
        if len(data) == _WORD and offset in _DOORBELLS:
            self._write_doorbell(offset, int.from_bytes(data, "little"))
            return
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

    def _read_doorbells(self, offset: int, count: int) -> bytes:
        """What stands in the shared pages, and behind them as `read`."""
        end = min(offset + count, regs.DOORBELLS_SIZE)
        data = bytes(self._doorbells.memory[offset:end])
        if len(data) < count:
            data += self.read(regs.DOORBELLS_SIZE, count - len(data))
        return data

    def _write_doorbells(self, offset: int, data: bytes) -> None:
        for bank in regs.DOORBELL_BANKS:
            first, last = max(offset, bank.offset), min(offset + len(data), bank.end)
            for at in range(first & -_WORD, last, _WORD):
                self._write_doorbell(at, self._merged(at, offset, data))

    def _write_doorbell(self, at: int, value: int) -> None:
        if at >= _DYN_CTLN:
            self.on_dyn_ctln((at - _DYN_CTLN) // _WORD + 1, value)
        else:
            self._doorbells.store(at, value)
            self.on_doorbell()

    def _merged(self, at: int, offset: int, data: bytes) -> int:
        """The doorbell word at `at` after the bytes of `data`, which stand at `offset`, are in."""
        word = bytearray(self._doorbells.load(at).to_bytes(_WORD, "little"))
        first, last = max(at, offset), min(at + _WORD, offset + len(data))
        word[first - at : last - at] = data[first - offset : last - offset]
        return int.from_bytes(word, "little")
