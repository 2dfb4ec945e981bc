"""The driver's side of the admin queue over a QTest: enough to talk to the PF with no driver."""

from collections.abc import Sequence
from dataclasses import dataclass

from emuiavf.iavf import regs
from emuiavf.virtchnl.ops import Op
from tests.vm.harness.qtest import QTest

ENTRIES = 16
BUFFER = 4096
DESCRIPTOR = regs.AqDescriptor


@dataclass(frozen=True)
class Message:
    op: int
    status: int
    body: bytes


class Mailbox:
    """ATQ and ARQ in guest RAM at `base` (`SIZE` bytes), on a device whose BAR0 is at `bar0`."""

    SIZE = 2 * ENTRIES * (DESCRIPTOR.SIZE + BUFFER)

    def __init__(self, q: QTest, bar0: int, base: int = 0x100000) -> None:
        self.q, self.bar0 = q, bar0
        self.atq = base
        self.arq = base + ENTRIES * DESCRIPTOR.SIZE
        self.buffers = base + 2 * ENTRIES * DESCRIPTOR.SIZE
        self.sent = 0
        self.received = 0

    def read(self, register: regs.Register) -> int:
        return self.q.read32(self.bar0 + register.offset)

    def write(self, register: regs.Register, value: int) -> None:
        self.q.write32(self.bar0 + register.offset, value)

    def _buffer(self, index: int) -> int:
        return self.buffers + index * BUFFER

    def open(
        self, *, atq: int | None = None, arq: int | None = None, length: int = ENTRIES
    ) -> None:
        """Set both queues up; other addresses or lengths are for what a bad driver does."""
        self.sent = self.received = 0
        self.q.write(self.atq, bytes(2 * ENTRIES * DESCRIPTOR.SIZE))
        for index in range(ENTRIES):
            self._post(index)
        atq = self.atq if atq is None else atq
        arq = self.arq if arq is None else arq
        for head, tail, low, high, size, base in (
            (regs.ATQH1, regs.ATQT1, regs.ATQBAL1, regs.ATQBAH1, regs.ATQLEN1, atq),
            (regs.ARQH1, regs.ARQT1, regs.ARQBAL1, regs.ARQBAH1, regs.ARQLEN1, arq),
        ):
            self.write(head, 0)
            self.write(tail, 0)
            self.write(low, base & 0xFFFFFFFF)
            self.write(high, base >> 32)
            self.write(size, length | regs.AqLen.ENABLE)
        self.write(regs.ARQT1, ENTRIES - 1)

    def _post(self, index: int) -> None:
        self.q.write(
            self.arq + index * DESCRIPTOR.SIZE,
            self.descriptor(
                flags=regs.AqFlag.BUF | regs.AqFlag.LB,
                datalen=BUFFER,
                address=self._buffer(ENTRIES + index),
            ),
        )

    @staticmethod
    def descriptor(
        *, flags: int, opcode: int = 0, datalen: int = 0, cookie: int = 0, address: int = 0
    ) -> bytes:
        return DESCRIPTOR(
            flags=flags,
            opcode=opcode,
            datalen=datalen,
            retval=0,
            cookie_high=cookie,
            cookie_low=0,
            param0=0,
            param1=0,
            addr_high=address >> 32,
            addr_low=address & 0xFFFFFFFF,
        ).encode()

    def post(self, descriptor: bytes, body: bytes = b"") -> int:
        """Put one descriptor into the ATQ and ring; returns its index."""
        index = self.sent % ENTRIES
        if body:
            self.q.write(self._buffer(index), body)
        self.q.write(self.atq + index * DESCRIPTOR.SIZE, descriptor)
        self.sent += 1
        self.write(regs.ATQT1, self.sent % ENTRIES)
        return index

    def send(self, op: int, body: bytes = b"") -> int:
        """One virtchnl message; returns the index of its descriptor."""
        flags = regs.AqFlag.SI
        if body:
            flags |= regs.AqFlag.BUF | regs.AqFlag.RD
        if len(body) > regs.AQ_LARGE_BUFFER:
            flags |= regs.AqFlag.LB
        descriptor = self.descriptor(
            flags=flags,
            opcode=regs.AqOpcode.SEND_MSG_TO_PF,
            datalen=len(body),
            cookie=op,
            address=self._buffer(self.sent % ENTRIES) if body else 0,
        )
        return self.post(descriptor, body)

    def completed(self, index: int) -> bool:
        flags = self.q.get(self.atq + index * DESCRIPTOR.SIZE, 2)
        return bool(flags & regs.AqFlag.DD)

    def messages(self) -> list[Message]:
        """What has arrived in the ARQ since the last look; the buffers are posted again."""
        found = []
        head = self.read(regs.ARQH1)
        assert head < ENTRIES, hex(head)
        while self.received % ENTRIES != head:
            index = self.received % ENTRIES
            raw = self.q.read(self.arq + index * DESCRIPTOR.SIZE, DESCRIPTOR.SIZE)
            entry = DESCRIPTOR.decode(raw)
            assert entry.flags & regs.AqFlag.DD
            body = self.q.read(entry.address, entry.datalen) if entry.datalen else b""
            found.append(Message(entry.cookie_high, entry.cookie_low, body))
            self._post(index)
            self.write(regs.ARQT1, index)
            self.received += 1
        return found

    def ask(self, op: int, body: bytes = b"") -> list[Message]:
        """Send, and wait for the answer; returns it with what followed it at once."""
        self.send(op, body)
        found: list[Message] = []

        def answered() -> bool:
            found.extend(self.messages())
            return any(message.op == op for message in found)

        self.q.wait(answered)
        return found

    def version(self) -> Message:
        return next(m for m in self.ask(Op.VERSION, bytes([1, 0, 0, 0, 1, 0, 0, 0])) if m.op == 1)


def words(body: bytes) -> Sequence[int]:
    """A body as little-endian 32-bit words."""
    return [int.from_bytes(body[at : at + 4], "little") for at in range(0, len(body), 4)]
