"""MSI-X: the vector table and the pending bit array (PBA) of one function.

Knows masks and pending bits; knows no eventfd.  PCIe 6.0, sections 6.1.4 and 7.7.2.

VMMs keep a table of their own over ours and express masks by swapping eventfds, so their table
writes never arrive here, while their reads of the PBA do.  Entry masks therefore count only for
a client whose table writes do arrive; before the first one the entries are taken as unmasked.
"""

from collections.abc import Callable
from dataclasses import dataclass

from emuiavf.pci.regs import Register, RegisterFile

ENTRY_SIZE = 16
VECTOR_CONTROL = 12
VECTOR_MASKED = 1


@dataclass(frozen=True)
class MsixLayout:
    """Where table and PBA are: the BAR, offsets in it (multiples of 8) and how many vectors."""

    num_vectors: int
    bar: int
    table_offset: int = 0
    pba_offset: int = 0x2000

    def __post_init__(self) -> None:
        assert 1 <= self.num_vectors <= 2048
        assert self.table_offset % 8 == 0
        assert self.pba_offset % 8 == 0
        low, high = sorted([(self.table_offset, self.table_size), (self.pba_offset, self.pba_size)])
        assert high[0] - low[0] >= low[1], "MSI-X table and PBA overlap"

    @property
    def table_size(self) -> int:
        return self.num_vectors * ENTRY_SIZE

    @property
    def pba_size(self) -> int:
        return (self.num_vectors + 63) // 64 * 8


def _entries(num_vectors: int) -> list[Register]:
    """Address, data and control words; only the mask bit of the control word can be written."""
    made = []
    for vector in range(num_vectors):
        at = vector * ENTRY_SIZE
        made.append(Register(f"address{vector}", at, 8, 0, (1 << 64) - 4))
        made.append(Register(f"data{vector}", at + 8, 4, 0, 0xFFFF_FFFF))
        made.append(
            Register(f"control{vector}", at + VECTOR_CONTROL, 4, VECTOR_MASKED, VECTOR_MASKED)
        )
    return made


class Msix:
    """Table and PBA as a part of a BAR.

    `on_unmask(vector)` is called for each vector that loses its last mask while it is pending;
    its pending bit is clear by then, the callee sends the interrupt.
    """

    def __init__(self, layout: MsixLayout, on_unmask: Callable[[int], None]) -> None:
        self.layout = layout
        self.enabled = False
        self.function_mask = False
        self.pending = 0
        self._on_unmask = on_unmask
        self._table = RegisterFile(layout.table_size, _entries(layout.num_vectors))
        self._table_used = False

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes of the BAR at `offset`; what is neither table nor PBA reads as zero."""
        data = bytearray(count)
        for start, content in (
            (self.layout.table_offset, self._table.read(0, self.layout.table_size)),
            (self.layout.pba_offset, self.pending.to_bytes(self.layout.pba_size, "little")),
        ):
            first = max(offset, start)
            last = min(offset + count, start + len(content))
            if first < last:
                data[first - offset : last - offset] = content[first - start : last - start]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write to the BAR at `offset`: table bytes change, all others are ignored."""
        start = self.layout.table_offset
        first = max(offset, start)
        last = min(offset + len(data), start + self.layout.table_size)
        if first < last:
            self._table.write(first - start, data[first - offset : last - offset])
            self._table_used = True
            self._send_unmasked()

    def set_control(self, enabled: bool, function_mask: bool) -> None:
        """The two bits of message control, as `ConfigSpace` reports them."""
        self.enabled = enabled
        self.function_mask = function_mask
        self._send_unmasked()

    def is_masked(self, vector: int) -> bool:
        """Whether an interrupt of `vector` has to stay pending now."""
        return not self.enabled or self.function_mask or self._is_entry_masked(vector)

    def set_pending(self, vector: int) -> None:
        """Remember an interrupt of `vector` that could not be sent."""
        assert 0 <= vector < self.layout.num_vectors
        self.pending |= 1 << vector

    def clear_pending(self, vector: int) -> None:
        self.pending &= ~(1 << vector)

    def reset(self) -> None:
        """Table and PBA as after power-on: every entry masked, nothing pending, not enabled."""
        self._table.reset()
        self._table_used = False
        self.enabled = self.function_mask = False
        self.pending = 0

    def _is_entry_masked(self, vector: int) -> bool:
        if not self._table_used:
            return False
        return bool(self._table.read(vector * ENTRY_SIZE + VECTOR_CONTROL, 1)[0] & VECTOR_MASKED)

    def _send_unmasked(self) -> None:
        waiting = self.pending
        while waiting:
            vector = (waiting & -waiting).bit_length() - 1
            waiting &= waiting - 1
            if not self.is_masked(vector):
                self.clear_pending(vector)
                self._on_unmask(vector)
