"""The admin queues: ATQ (VF to PF) and ARQ (PF to VF), two rings of descriptors in guest memory.

Knows descriptors and buffers; knows no virtchnl message, no interrupt and no clock.  The registers
are the state of the rings: a guest that writes them anew has a new ring.  Everything read from
guest memory is copied once and the copy is judged.  Reference: iavf-adminq-reset.md, 3.1 to 3.4.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from emuiavf.errors import MemoryFault
from emuiavf.iavf import regs
from emuiavf.iavf.regs import AqDescriptor, AqFlag, AqLen, AqOpcode, AqRet
from emuiavf.pci.regs import Register, RegisterFile

# Messages that wait for the guest to post buffers; iPXE has three slots, no driver leaves more
# than a handful of replies unread.  One more is dropped and counted.
MAX_BACKLOG = 256

_IOVA_MASK = (1 << 64) - 1
# A completion rewrites flags, opcode, datalen and retval; cookies and address stay (trap 9).
_COMPLETION_SIZE = 8


class Memory(Protocol):
    """Guest memory; both raise MemoryFault when the range is not all there."""

    def read(self, iova: int, size: int) -> bytes: ...
    def write(self, iova: int, data: bytes) -> None: ...


@dataclass(frozen=True)
class Message:
    """One virtchnl message; `status` has a meaning towards the VF only."""

    opcode: int
    body: bytes = b""
    status: int = 0


@dataclass
class Faults:
    """What went wrong by the guest's fault, since the device was made."""

    bad_ring: int = 0
    bad_buffer: int = 0
    bad_command: int = 0
    dropped: int = 0
    # ATQ descriptors of 32 zero bytes: no driver writes one, so what it wrote is not seen here.
    blank: int = 0


@dataclass(frozen=True)
class _Ring:
    """One ring as its five registers tell it."""

    name: str
    file: RegisterFile
    bal: Register
    bah: Register
    len: Register
    head: Register
    tail: Register

    @property
    def enabled(self) -> bool:
        return bool(self.file.get(self.len) & AqLen.ENABLE)

    @property
    def ring_len(self) -> int:
        return self.file.get(self.len) & regs.AQ_INDEX_MASK

    def is_sane(self) -> bool:
        """Whether head and tail lie in the ring; nothing moves while they do not."""
        return self.file.get(self.head) < self.ring_len > self.file.get(self.tail)

    def is_empty(self) -> bool:
        return self.file.get(self.head) == self.file.get(self.tail)

    def address(self) -> int:
        """IOVA of the descriptor at head."""
        base = self.file.get(self.bah) << 32 | self.file.get(self.bal)
        return base + self.file.get(self.head) * AqDescriptor.SIZE & _IOVA_MASK

    def advance(self) -> None:
        self.file.set(self.head, (self.file.get(self.head) + 1) % self.ring_len)


class AdminQueue:
    """Both rings of one VF.

    `on_delivered` is called after messages were put into the ARQ, once for several.
    """

    def __init__(
        self, mem: Memory, file: RegisterFile, on_delivered: Callable[[], None] = lambda: None
    ) -> None:
        self.faults = Faults()
        self.shut_down = False
        self.taken = 0  # ATQ descriptors since the device was made
        # COMMAND.bus-master: without it no descriptor is read or written.
        self.bus_master = False
        self._mem = mem
        self._file = file
        self._on_delivered = on_delivered
        self._stalled = False
        self._backlog: deque[Message] = deque()
        self._atq = _Ring(
            "ATQ", file, regs.ATQBAL1, regs.ATQBAH1, regs.ATQLEN1, regs.ATQH1, regs.ATQT1
        )
        self._arq = _Ring(
            "ARQ", file, regs.ARQBAL1, regs.ARQBAH1, regs.ARQLEN1, regs.ARQH1, regs.ARQT1
        )

    @property
    def backlog(self) -> int:
        """Messages that wait for room in the ARQ."""
        return len(self._backlog)

    @property
    def has_commands(self) -> bool:
        """Whether the guest has offered ATQ descriptors that can be taken."""
        return not self._stalled and self._is_running(self._atq) and not self._atq.is_empty()

    @property
    def is_all_read(self) -> bool:
        """Whether the guest has posted the buffer of the latest message again.

        Drivers give each slot back when they have read it; full, the ring's tail is behind head.
        """
        if self._backlog or not self._is_running(self._arq):
            return False
        last = (self._file.get(regs.ARQH1) - 1) % self._arq.ring_len
        return self._file.get(regs.ARQT1) == last

    def commands(self, limit: int) -> Iterator[Message]:
        """Take at most `limit` ATQ descriptors; yields the virtchnl messages among them.

        Each is completed before it is yielded.  The registers are looked at afresh for each one:
        acting on a message may have reset the ring.
        """
        self._stalled = False
        for _ in range(limit):
            if not self.has_commands:
                return
            try:
                message = self._take()
            except MemoryFault:
                self.faults.bad_ring += 1
                self._stalled = True  # until the guest rings again
                return
            if message is not None:
                yield message

    def post(self, message: Message) -> None:
        """Send one message to the VF, now or when it has room; nobody gets it if the ARQ is off."""
        if not self._arq.enabled:
            return
        if len(self._backlog) == MAX_BACKLOG:
            self.faults.dropped += 1
            return
        self._backlog.append(message)
        self.deliver()

    def deliver(self) -> None:
        """Put waiting messages into the buffers that the guest has posted."""
        delivered = False
        while self._backlog and self._is_running(self._arq) and not self._arq.is_empty():
            try:
                self._put(self._backlog[0])
            except MemoryFault:
                self.faults.bad_ring += 1
                break
            self._backlog.popleft()
            delivered = True
        if delivered:
            self._on_delivered()

    def arq_set_up(self) -> None:
        """ARQH or ARQLEN was written: what waited is not for a ring that is set up anew.

        Drivers write head 0 and a length without ENABLE; VPP avf does the former only.
        """
        if self._file.get(regs.ARQH1) == 0 or not self._arq.enabled:
            self._backlog.clear()

    def reset(self) -> None:
        """Forget what waits and clear all registers of both rings; ENABLE reads 0 afterwards."""
        self._backlog.clear()
        self.shut_down = False
        for ring in (self._atq, self._arq):
            for register in (ring.bal, ring.bah, ring.len, ring.head, ring.tail):
                self._file.set(register, 0)

    def _is_running(self, ring: _Ring) -> bool:
        if not self.bus_master or not ring.enabled:
            return False
        if not ring.is_sane():
            self.faults.bad_ring += 1
            return False
        return True

    def _take(self) -> Message | None:
        """Take and complete the ATQ descriptor at head; the message it carries, if it does."""
        at = self._atq.address()
        raw = self._mem.read(at, AqDescriptor.SIZE)
        self.faults.blank += not any(raw)
        descriptor = AqDescriptor.decode(raw)
        retval, body = self._judge(descriptor)
        flags = descriptor.flags | AqFlag.DD | AqFlag.CMP | (AqFlag.ERR if retval else 0)
        done = replace(descriptor, flags=flags, retval=retval)
        self._mem.write(at, done.encode()[:_COMPLETION_SIZE])
        # The descriptor first: drivers go by ATQH alone.
        self._atq.advance()
        self.taken += 1
        if retval != AqRet.OK:
            return None
        if descriptor.opcode == AqOpcode.QUEUE_SHUTDOWN:
            self.shut_down = True
            return None
        return Message(descriptor.cookie_high, body)

    def _judge(self, descriptor: AqDescriptor) -> tuple[AqRet, bytes]:
        """The admin queue's own verdict on a descriptor, and the data it brings."""
        if descriptor.opcode not in (AqOpcode.SEND_MSG_TO_PF, AqOpcode.QUEUE_SHUTDOWN):
            self.faults.bad_command += 1
            return AqRet.ENOSYS, b""
        # BUF and datalen decide; VPP avf sets RD without data.
        if not descriptor.flags & AqFlag.BUF or descriptor.datalen == 0:
            return AqRet.OK, b""
        if descriptor.datalen > regs.AQ_BUFFER_SIZE:
            self.faults.bad_command += 1
            return AqRet.EFBIG, b""
        try:
            return AqRet.OK, self._mem.read(descriptor.address, descriptor.datalen)
        except MemoryFault:
            self.faults.bad_buffer += 1
            return AqRet.BAD_ADDR, b""

    def _put(self, message: Message) -> None:
        """Write `message` into the ARQ descriptor at head and its buffer, and advance."""
        at = self._arq.address()
        posted = AqDescriptor.decode(self._mem.read(at, AqDescriptor.SIZE))
        retval = self._fill(posted, message.body)
        flags = posted.flags & (AqFlag.BUF | AqFlag.LB) | AqFlag.DD | AqFlag.CMP
        filled = replace(
            posted,
            flags=flags | (AqFlag.ERR if retval else 0),
            opcode=AqOpcode.SEND_MSG_TO_VF,
            datalen=0 if retval else len(message.body),
            retval=retval,
            cookie_high=message.opcode,
            cookie_low=message.status,
            param0=0,
            param1=0,
        ).encode()
        # DD last: VPP dev_iavf and iPXE poll it in the descriptor.
        self._mem.write(at + _COMPLETION_SIZE & _IOVA_MASK, filled[_COMPLETION_SIZE:])
        self._mem.write(at, filled[:_COMPLETION_SIZE])
        self._arq.advance()

    def _fill(self, posted: AqDescriptor, body: bytes) -> AqRet:
        """Copy `body` into a posted buffer; a buffer that cannot take it loses the message."""
        if not body:
            return AqRet.OK
        if not posted.flags & AqFlag.BUF or posted.datalen < len(body):
            self.faults.bad_buffer += 1
            return AqRet.EFBIG
        try:
            self._mem.write(posted.address, body)
        except MemoryFault:
            self.faults.bad_buffer += 1
            return AqRet.BAD_ADDR
        return AqRet.OK
