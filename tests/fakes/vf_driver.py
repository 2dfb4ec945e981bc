"""The guest in tests: memory as bytes, admin queues built by hand, doorbells rung.

It shares tables with the product and no logic.  `Habit` tells how one driver sets its rings up
and what it looks at to find out that something has happened (iavf-adminq-reset.md 3.1 to 3.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from emuiavf.errors import MemoryFault
from emuiavf.iavf import regs
from emuiavf.iavf.regs import AqDescriptor, AqFlag
from emuiavf.pci.regs import Register
from emuiavf.vfio_user.client import Client
from emuiavf.vfio_user.wire import RegionIndex

ENABLE = 0x8000_0000
BUFFER_SIZE = 4096


class Memory(Protocol):
    def read(self, iova: int, size: int) -> bytes: ...
    def write(self, iova: int, data: bytes) -> None: ...


class GuestMemory:
    """Guest memory of one or several maps, with holes in between."""

    def __init__(self, *maps: tuple[int, int]) -> None:
        self.maps = {iova: bytearray(size) for iova, size in maps}
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []

    def read(self, iova: int, size: int) -> bytes:
        self.reads.append((iova, size))
        memory, at = self._find(iova, size)
        return bytes(memory[at : at + size])

    def write(self, iova: int, data: bytes) -> None:
        self.writes.append((iova, len(data)))
        memory, at = self._find(iova, len(data))
        memory[at : at + len(data)] = data

    def unmap(self, iova: int) -> None:
        del self.maps[iova]

    def _find(self, iova: int, size: int) -> tuple[bytearray, int]:
        assert 0 <= iova < 1 << 64
        for start, memory in self.maps.items():
            if start <= iova and size <= len(memory) - (iova - start):
                return memory, iova - start
        raise MemoryFault(f"{iova:#x}+{size:#x} is not mapped")


class Bar(Protocol):
    """32-bit accesses to BAR0."""

    def read32(self, offset: int) -> int: ...
    def write32(self, offset: int, value: int) -> None: ...


@dataclass(frozen=True)
class Ring:
    """The five registers of one queue."""

    head: Register
    tail: Register
    length: Register
    low: Register
    high: Register


ATQ = Ring(regs.ATQH1, regs.ATQT1, regs.ATQLEN1, regs.ATQBAL1, regs.ATQBAH1)
ARQ = Ring(regs.ARQH1, regs.ARQT1, regs.ARQLEN1, regs.ARQBAL1, regs.ARQBAH1)


@dataclass(frozen=True)
class Habit:
    """What one driver does.

    `atq_order` and `arq_order` name the registers in the order of their writes; `late` says that
    descriptors are filled after the queue was enabled; `by_dd` that DD is polled, not the head.
    """

    name: str
    atq_len: int
    arq_len: int
    atq_order: str
    arq_order: str
    arq_first: bool = False
    late: bool = False
    by_dd: bool = False
    send_flags: int = AqFlag.SI
    data_flags: int = AqFlag.BUF | AqFlag.RD
    uses_lb: bool = True
    posts_lb: bool = True
    alignment: int = 4096


LINUX = Habit("linux", 32, 32, "head tail length low high", "head tail length low high")
FREEBSD = Habit("freebsd", 256, 256, "head tail length low high", "head tail length low high")
IPXE = Habit(
    "ipxe",
    4,
    4,
    "head tail low high length",
    "head tail low high length",
    arq_first=True,
    late=True,
    by_dd=True,
    send_flags=0,
    uses_lb=False,
    posts_lb=False,
    alignment=256,
)
VPP_DEV = Habit(
    "vpp dev_iavf",
    4,
    16,
    "length tail head low high length",
    "length tail head low high length",
    late=True,
    by_dd=True,
    alignment=128,
)
VPP_AVF = Habit(
    "vpp avf",
    64,
    64,
    "tail head length low high",
    "head tail length low high",
    send_flags=AqFlag.RD | AqFlag.SI,
    data_flags=AqFlag.BUF,
    uses_lb=False,
    posts_lb=False,
    alignment=64,
)
HABITS = (LINUX, FREEBSD, IPXE, VPP_DEV, VPP_AVF)


@dataclass(frozen=True)
class Received:
    """One message as the driver finds it in its ARQ."""

    opcode: int
    status: int
    body: bytes
    flags: int
    retval: int


class VfDriver:
    """The admin queue half of a driver, byte by byte.

    `base` is where its rings and buffers begin in `memory` (about 2.2 MiB for 256 entries).
    """

    def __init__(
        self, memory: Memory, bar: Bar, habit: Habit = LINUX, base: int = 0x10_0000
    ) -> None:
        self.memory = memory
        self.bar = bar
        self.habit = habit
        self.atq = base
        size = habit.atq_len * AqDescriptor.SIZE
        self.arq = base + (size + habit.alignment - 1) // habit.alignment * habit.alignment
        self.atq_buffers = base + 0x1_0000
        self.arq_buffers = self.atq_buffers + habit.atq_len * BUFFER_SIZE
        self.next_to_use = 0
        self.next_to_clean = 0

    def open(self) -> None:
        """Set both rings up and post every ARQ buffer, in the driver's own order."""
        self.next_to_use = self.next_to_clean = 0
        queues = [self._open_arq, self._open_atq]
        for step in queues if self.habit.arq_first else reversed(queues):
            step()
        if self.habit.late:
            self._fill()
        self.bar.write32(regs.ARQT1.offset, self.habit.arq_len - 1)

    def close(self) -> None:
        """As Linux, DPDK and FreeBSD shut their queues down."""
        for ring in (ATQ, ARQ):
            for register in (ring.head, ring.tail, ring.length, ring.low, ring.high):
                self.bar.write32(register.offset, 0)

    def descriptor(self, opcode: int, body: bytes, index: int) -> AqDescriptor:
        """The descriptor this driver would write for a message."""
        flags = self.habit.send_flags
        if body:
            flags |= self.habit.data_flags
        if self.habit.uses_lb and len(body) > 512:
            flags |= AqFlag.LB
        buffer = self.atq_buffers + index * BUFFER_SIZE
        return AqDescriptor(
            flags, 0x0801, len(body), 0, opcode, 0, 0, 0, buffer >> 32, buffer & 0xFFFF_FFFF
        )

    def queue(self, opcode: int, body: bytes = b"") -> int:
        """Write a message into the ATQ without ringing the doorbell; its index."""
        index = self.next_to_use
        descriptor = self.descriptor(opcode, body, index)
        if body:
            self.memory.write(descriptor.address, body)
        self.put_atq(index, descriptor)
        self.next_to_use = (index + 1) % self.habit.atq_len
        return index

    def put_atq(self, index: int, descriptor: AqDescriptor) -> None:
        self.memory.write(self.atq + index * 32, descriptor.encode())

    def ring(self) -> None:
        """Tell the device how far the ATQ is filled."""
        self.bar.write32(regs.ATQT1.offset, self.next_to_use)

    def send(self, opcode: int, body: bytes = b"") -> int:
        """Queue one message and ring; its index."""
        index = self.queue(opcode, body)
        self.ring()
        return index

    def completed(self, index: int) -> AqDescriptor:
        """The ATQ descriptor as it stands in memory."""
        return AqDescriptor.decode(self.memory.read(self.atq + index * 32, 32))

    def posted(self, index: int) -> AqDescriptor:
        """The ARQ descriptor as it stands in memory."""
        return AqDescriptor.decode(self.memory.read(self.arq + index * 32, 32))

    def receive(self) -> Received | None:
        """The next message, seen as this driver sees it; its buffer is posted again."""
        index = self.next_to_clean
        # The head first: the descriptor is filled when it has moved, and not before.
        if not self.habit.by_dd and self.bar.read32(regs.ARQH1.offset) == index:
            return None
        descriptor = self.posted(index)
        if self.habit.by_dd and not descriptor.flags & AqFlag.DD:
            return None
        # VPP dev_iavf does not look at the data without BUF.
        body = b""
        if descriptor.flags & AqFlag.BUF:
            body = self.memory.read(descriptor.address, descriptor.datalen)
        self._post(index)
        self.bar.write32(regs.ARQT1.offset, index)
        self.next_to_clean = (index + 1) % self.habit.arq_len
        return Received(
            descriptor.cookie_high, descriptor.cookie_low, body, descriptor.flags, descriptor.retval
        )

    def receive_all(self) -> list[Received]:
        """Every message that is there."""
        return list(iter(self.receive, None))

    def _open_atq(self) -> None:
        self.memory.write(self.atq, bytes(32 * self.habit.atq_len))
        self._set_up(ATQ, self.habit.atq_order, self.habit.atq_len, self.atq)

    def _open_arq(self) -> None:
        if not self.habit.late:
            self._fill()
        self._set_up(ARQ, self.habit.arq_order, self.habit.arq_len, self.arq)

    def _set_up(self, ring: Ring, order: str, length: int, base: int) -> None:
        values = {"head": 0, "tail": 0, "low": base & 0xFFFF_FFFF, "high": base >> 32}
        names = order.split()
        for position, name in enumerate(names):
            is_last = name not in names[position + 1 :]
            value = (length | ENABLE if is_last else 0) if name == "length" else values[name]
            self.bar.write32(getattr(ring, name).offset, value)

    def _fill(self) -> None:
        for index in range(self.habit.arq_len):
            self._post(index)

    def _post(self, index: int) -> None:
        flags = AqFlag.BUF | (AqFlag.LB if self.habit.posts_lb else 0)
        buffer = self.arq_buffers + index * BUFFER_SIZE
        self.memory.write(
            self.arq + index * 32,
            AqDescriptor(
                flags, 0, BUFFER_SIZE, 0, 0, 0, 0, 0, buffer >> 32, buffer & 0xFFFF_FFFF
            ).encode(),
        )


@dataclass
class CallbackBar:
    """A Bar made of two functions on bytes, such as a device's region accesses."""

    read: Callable[[int, int], bytes]
    write: Callable[[int, bytes], None]

    def read32(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))


@dataclass
class ClientBar:
    """BAR0 of the device that a client has connected to."""

    client: Client

    def read32(self, offset: int) -> int:
        return self.client.read32(RegionIndex.BAR0, offset)

    def write32(self, offset: int, value: int) -> None:
        self.client.write32(RegionIndex.BAR0, offset, value)
