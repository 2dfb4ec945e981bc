"""The 4096 bytes of configuration space of a PCI Express endpoint, as one table of registers.

Header type 0, MSI-X capability at 70h, PCI Express capability version 2 with function-level
reset (FLR) at a0h.  What a write means to the device leaves through callbacks; writes to
read-only bits are accepted silently, because VMMs print a message for each one refused.
PCIe 6.0, sections 7.5.1 (header), 7.5.3 (PCI Express capability) and 7.7.2 (MSI-X).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag

from emuiavf.pci.msix import MsixLayout
from emuiavf.pci.regs import Register, RegisterFile, read_only, read_write, table

CONFIG_SIZE = 4096
NUM_BARS = 6

MSIX_CAP = 0x70
EXPRESS_CAP = 0xA0
CAP_ID_MSIX = 0x11
CAP_ID_EXPRESS = 0x10


class Command(IntFlag):
    """The bits of COMMAND that are stored."""

    IO = 1 << 0
    MEMORY = 1 << 1
    BUS_MASTER = 1 << 2
    PARITY = 1 << 6
    SERR = 1 << 8
    INTX_DISABLE = 1 << 10


STATUS_CAP_LIST = 1 << 4

BAR_64 = 0b100
BAR_PREFETCH = 0b1000

MSIX_FUNCTION_MASK = 1 << 14
MSIX_ENABLE = 1 << 15

DEVCTL_INITIATE_FLR = 1 << 15

COMMAND = Register("COMMAND", 0x04, 2, 0, sum(Command))
MSIX_CONTROL = Register("MSIX_CONTROL", MSIX_CAP + 2, 2, 0, MSIX_ENABLE | MSIX_FUNCTION_MASK)
# Relaxed ordering and no-snoop enabled, read requests up to 512 bytes; bit 15 always reads 0.
DEVCTL = Register("DEVCTL", EXPRESS_CAP + 0x08, 2, 0x2810, 0x7FFF)

# Link fields: 16 GT/s x16, so that no bridge above us looks like the faster one.
_LINK_16GT_X16 = 0x104

EXPRESS = (
    read_only("EXPRESS_ID", EXPRESS_CAP, 1, CAP_ID_EXPRESS),
    read_only("EXPRESS_NEXT", EXPRESS_CAP + 0x01, 1, 0),
    read_only("EXPRESS_CAPS", EXPRESS_CAP + 0x02, 2, 0x0002),  # version 2, endpoint
    # Extended tags, role-based error reporting (mandatory since PCIe 1.1), FLR; payload 128 B.
    read_only("DEVCAP", EXPRESS_CAP + 0x04, 4, 1 << 5 | 1 << 15 | 1 << 28),
    DEVCTL,
    read_only("DEVSTA", EXPRESS_CAP + 0x0A, 2, 0),
    read_only("LNKCAP", EXPRESS_CAP + 0x0C, 4, _LINK_16GT_X16),
    Register("LNKCTL", EXPRESS_CAP + 0x10, 2, 0, 0x01CB),  # ASPM, RCB, clock and synch bits
    read_only("LNKSTA", EXPRESS_CAP + 0x12, 2, _LINK_16GT_X16),
    read_only("DEVCAP2", EXPRESS_CAP + 0x24, 4, 1 << 4),  # completion timeout can be disabled
    Register("DEVCTL2", EXPRESS_CAP + 0x28, 2, 0, 1 << 4),
    read_only("LNKCAP2", EXPRESS_CAP + 0x2C, 4, 0b11110),  # 2.5 to 16 GT/s
    Register("LNKCTL2", EXPRESS_CAP + 0x30, 2, 4, 0x000F),  # target speed
    read_only("LNKSTA2", EXPRESS_CAP + 0x32, 2, 0),
)


@dataclass(frozen=True)
class Identity:
    """The numbers by which drivers find a function; `class_code` has 24 bits."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem_device: int = 0


@dataclass(frozen=True)
class Bar:
    """A memory BAR; `size` is a power of two, a 64-bit one takes the next register too."""

    size: int
    is64: bool = True
    prefetch: bool = True

    def __post_init__(self) -> None:
        assert self.size >= 16
        assert self.size & (self.size - 1) == 0


def _header(identity: Identity) -> Iterator[Register]:
    """The header without its BARs; what is not here reads 0: INTx pin, ROM BAR, BIST, latency."""
    yield read_only("VENDOR_ID", 0x00, 2, identity.vendor)
    yield read_only("DEVICE_ID", 0x02, 2, identity.device)
    yield COMMAND
    yield read_only("STATUS", 0x06, 2, STATUS_CAP_LIST)
    yield read_only("REVISION_ID", 0x08, 1, identity.revision)
    yield read_only("CLASS_CODE", 0x09, 3, identity.class_code)
    yield read_write("CACHE_LINE_SIZE", 0x0C, 1)
    yield read_only("SUBSYSTEM_VENDOR_ID", 0x2C, 2, identity.subsystem_vendor)
    yield read_only("SUBSYSTEM_ID", 0x2E, 2, identity.subsystem_device)
    yield read_write("INTERRUPT_LINE", 0x3C, 1)


def _bars(bars: Mapping[int, Bar]) -> Iterator[Register]:
    """Sizing needs no code: the low address bits cannot be written, so all ones reads back as
    the size mask, and an absent BAR has no writable bit at all."""
    for index, bar in bars.items():
        assert 0 <= index < NUM_BARS - bar.is64
        size = 8 if bar.is64 else 4
        kind = (BAR_64 if bar.is64 else 0) | (BAR_PREFETCH if bar.prefetch else 0)
        address = (1 << 8 * size) - bar.size
        yield Register(f"BAR{index}", 0x10 + 4 * index, size, kind, address)


def _msix(layout: MsixLayout) -> Iterator[Register]:
    control = layout.num_vectors - 1
    yield read_only("MSIX_ID", MSIX_CAP, 1, CAP_ID_MSIX)
    yield read_only("MSIX_NEXT", MSIX_CAP + 0x01, 1, EXPRESS_CAP)
    yield Register("MSIX_CONTROL", MSIX_CONTROL.offset, 2, control, MSIX_CONTROL.writable)
    yield read_only("MSIX_TABLE", MSIX_CAP + 0x04, 4, layout.table_offset | layout.bar)
    yield read_only("MSIX_PBA", MSIX_CAP + 0x08, 4, layout.pba_offset | layout.bar)


class ConfigSpace:
    """Configuration space of one function.

    Callbacks run inside the `write` or `reset` that causes them, and the register already has
    its new value: `on_command(old, new)` when COMMAND changes, `on_msix(enabled, function_mask)`
    when one of those bits does, `on_flr()` when an FLR is initiated.  After `on_flr` has
    returned, the configuration space resets itself, with the events that follow from it.
    """

    def __init__(
        self,
        identity: Identity,
        bars: Mapping[int, Bar],
        msix: MsixLayout | None = None,
        *,
        on_command: Callable[[Command, Command], None] = lambda old, new: None,
        on_flr: Callable[[], None] = lambda: None,
        on_msix: Callable[[bool, bool], None] = lambda enabled, function_mask: None,
    ) -> None:
        first_cap = EXPRESS_CAP if msix is None else MSIX_CAP
        self.registers = table(
            [
                *_header(identity),
                *_bars(bars),
                read_only("CAP_POINTER", 0x34, 1, first_cap),
                *(() if msix is None else _msix(msix)),
                *EXPRESS,
            ]
        )
        self._file = RegisterFile(CONFIG_SIZE, self.registers.values())
        self._has_msix = msix is not None
        self._on_command = on_command
        self._on_flr = on_flr
        self._on_msix = on_msix

    @property
    def command(self) -> Command:
        return Command(self._file.get(COMMAND))

    @property
    def bus_master(self) -> bool:
        """Whether the function may read or write memory and send interrupts."""
        return Command.BUS_MASTER in self.command

    @property
    def msix_enabled(self) -> bool:
        return bool(self._msix_bits() & MSIX_ENABLE)

    @property
    def msix_function_mask(self) -> bool:
        return bool(self._msix_bits() & MSIX_FUNCTION_MASK)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at any offset and width; PeerError outside of the 4096."""
        return self._file.read(offset, count)

    def write(self, offset: int, data: bytes) -> None:
        """Write at any offset and width; PeerError outside of the 4096."""
        command, msix = self.command, self._msix_bits()
        self._file.write(offset, data)
        self._report(command, msix)
        flr_byte = DEVCTL.offset + 1 - offset
        if 0 <= flr_byte < len(data) and data[flr_byte] & DEVCTL_INITIATE_FLR >> 8:
            self._on_flr()
            self.reset()

    def reset(self) -> None:
        """Power-on values everywhere: bus master and MSI-X off, BARs unassigned."""
        command, msix = self.command, self._msix_bits()
        self._file.reset()
        self._report(command, msix)

    def _msix_bits(self) -> int:
        if not self._has_msix:
            return 0
        return self._file.get(MSIX_CONTROL) & MSIX_CONTROL.writable

    def _report(self, command: Command, msix: int) -> None:
        """Tell what has changed since COMMAND and message control had these values."""
        if self.command != command:
            self._on_command(command, self.command)
        if self._msix_bits() != msix:
            self._on_msix(self.msix_enabled, self.msix_function_mask)
