"""vfio-user on the wire: command numbers, flags and the fixed parts of all messages.

Tables only.  The constants below the header are those of the kernel's VFIO, which the protocol
reuses.  Specification: vfio-user (docs/interop/vfio-user.rst of QEMU), VFIO (linux/vfio.h).
"""

from enum import IntEnum, IntFlag
from typing import Final

from emuiavf.layout import U16, U32, U64, Wire, wire

MAJOR: Final = 0
# Minor 2 came with the twin socket, which is not served: nothing is ever sent to the client.
MINOR: Final = 1

MAX_DATA_XFER: Final = 1 << 20
# Header, the 16 bytes before the data of a region access, and the data.
MAX_MSG_SIZE: Final = 16 + 16 + MAX_DATA_XFER
# What we ask a peer to keep to, and what we take (SCM_MAX_FD of the kernel: none is cut off).
MAX_MSG_FDS: Final = 16
MAX_RECEIVED_FDS: Final = 253
MAX_DMA_MAPS: Final = 65535
MAX_DMA_SIZE: Final = 8 << 40
PAGE_SIZES: Final = 4096
ADDRESS_SPACE: Final = 1 << 64


class Command(IntEnum):
    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


_NAMES: Final = {int(command): command.name for command in Command}


def command_name(command: int) -> str:
    """The name of a command for people, also of one that does not exist."""
    return _NAMES.get(command, f"command {command}")


# Plain integers, not IntFlag: these are looked at in every message.
TYPE_MASK: Final = 0xF
TYPE_COMMAND: Final = 0
TYPE_REPLY: Final = 1
NO_REPLY: Final = 0x10
ERROR: Final = 0x20


class RegionIndex(IntEnum):
    """VFIO_PCI_*_REGION_INDEX; BAR n is region n."""

    BAR0 = 0
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class IrqIndex(IntEnum):
    """VFIO_PCI_*_IRQ_INDEX."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


class DeviceFlag(IntFlag):
    RESET = 1
    PCI = 2


class RegionFlag(IntFlag):
    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


class IrqFlag(IntFlag):
    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSet(IntFlag):
    """flags of DEVICE_SET_IRQS: exactly one DATA and one ACTION."""

    DATA_NONE = 0x01
    DATA_BOOL = 0x02
    DATA_EVENTFD = 0x04
    ACTION_MASK = 0x08
    ACTION_UNMASK = 0x10
    ACTION_TRIGGER = 0x20


class MapFlag(IntFlag):
    """flags of DMA_MAP; the last two are libvfio-user's and need a descriptor."""

    READ = 1
    WRITE = 2
    MMAP = 4
    FILE_IO = 8


class UnmapFlag(IntFlag):
    GET_DIRTY_BITMAP = 1
    ALL = 2


CAP_SPARSE_MMAP: Final = 1


@wire(size=16)
class Header(Wire):
    msg_id: U16
    command: U16
    msg_size: U32
    flags: U32
    error: U32


@wire(size=4)
class Version(Wire):
    """Followed by JSON and a NUL."""

    major: U16
    minor: U16


@wire(size=32)
class DmaMap(Wire):
    argsz: U32
    flags: U32
    offset: U64
    address: U64
    size: U64


@wire(size=24)
class DmaUnmap(Wire):
    argsz: U32
    flags: U32
    address: U64
    size: U64


@wire(size=16)
class DeviceInfo(Wire):
    argsz: U32
    flags: U32
    num_regions: U32
    num_irqs: U32


@wire(size=32)
class RegionInfo(Wire):
    """`cap_offset` counts from the start of this structure."""

    argsz: U32
    flags: U32
    index: U32
    cap_offset: U32
    size: U64
    offset: U64


@wire(size=8)
class CapHeader(Wire):
    id: U16
    version: U16
    next: U32


@wire(size=16)
class SparseMmap(Wire):
    """The sparse mmap capability, followed by `nr_areas` SparseArea."""

    id: U16
    version: U16
    next: U32
    nr_areas: U32
    reserved: U32


@wire(size=16)
class SparseArea(Wire):
    offset: U64
    size: U64


@wire(size=16)
class RegionIoFds(Wire):
    argsz: U32
    flags: U32
    index: U32
    count: U32


@wire(size=16)
class IrqInfo(Wire):
    argsz: U32
    flags: U32
    index: U32
    count: U32


@wire(size=20)
class SetIrqs(Wire):
    """Followed by `count` bytes when DATA_BOOL is set."""

    argsz: U32
    flags: U32
    index: U32
    start: U32
    count: U32


@wire(size=16)
class RegionAccess(Wire):
    """REGION_READ and REGION_WRITE, both ways; followed by `count` bytes of data."""

    offset: U64
    region: U32
    count: U32


@wire(size=16)
class DmaAccess(Wire):
    """DMA_READ and DMA_WRITE, server to client."""

    address: U64
    count: U64


# Of the structures met in every message the bare codecs are used: no object per message.
HEADER: Final = Header._codec
REGION_ACCESS: Final = RegionAccess._codec
