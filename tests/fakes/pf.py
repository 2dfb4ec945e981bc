"""A PF behind registers, for drivers: works the admin queue rings in guest memory.

`answers[op]` is what a request gets: (status, body), or None for silence.  Everything received is
kept in `requests`.  `events` are posted behind the next answer.
"""

import os
import struct
from dataclasses import dataclass, field

from emuiavf.guest.memory import DmaMemory

ARQH, ARQT, ARQLEN = 0x7400, 0x7000, 0x8000
ATQH, ATQT, ATQLEN = 0x6400, 0x8400, 0x6800
ARQBAL, ATQBAL, RSTAT = 0x6C00, 0x7C00, 0x8800
ENABLE = 1 << 31


@dataclass
class FakePf:
    """Registers by offset, with the side effects of a reset and of ATQT."""

    memory: DmaMemory
    irq_fd: int
    answers: dict[int, tuple[int, bytes] | None] = field(default_factory=dict)
    events: list[bytes] = field(default_factory=list)
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    registers: dict[int, int] = field(default_factory=lambda: {RSTAT: 2})
    resets: int = 0
    retval: int = 0

    def word(self, offset: int) -> memoryview | None:
        return None

    def read32(self, offset: int) -> int:
        return self.registers.get(offset, 0)

    def write32(self, offset: int, value: int, *, posted: bool = False) -> None:
        self.registers[offset] = value
        if offset == ATQT:
            self._work()

    def post(self, opcode: int, status: int, body: bytes) -> None:
        """Put one message into the ARQ and signal vector 0."""
        head = self.read32(ARQH)
        at = self._at(ARQBAL) + 32 * head
        view = self.memory.view
        high, low = struct.unpack_from("<II", view, at + 24)
        buffer = (high << 32 | low) - self.memory.iova
        view[buffer : buffer + len(body)] = body
        struct.pack_into("<HHHHIi", view, at, 0x1003, 0x0802, len(body), 0, opcode, status)
        self.registers[ARQH] = (head + 1) % (self.read32(ARQLEN) & 0x3FF)
        os.eventfd_write(self.irq_fd, 1)

    def reset(self) -> None:
        self.resets += 1
        self.registers = {RSTAT: 2}

    def _at(self, register: int) -> int:
        return self.read32(register) - (self.memory.iova & 0xFFFF_FFFF)

    def _work(self) -> None:
        view, ring = self.memory.view, self._at(ATQBAL)
        while ATQLEN in self.registers and self.read32(ATQH) != self.read32(ATQT):
            head = self.read32(ATQH)
            at = ring + 32 * head
            words = struct.unpack_from("<HHHHIiIIII", view, at)
            opcode, datalen, op, buffer = words[1], words[2], words[4], words[8] << 32 | words[9]
            start = buffer - self.memory.iova
            body = bytes(view[start : start + datalen]) if datalen else b""
            struct.pack_into("<HHHH", view, at, words[0] | 3, opcode, datalen, self.retval)
            self.registers[ATQH] = (head + 1) % (self.read32(ATQLEN) & 0x3FF)
            if opcode == 0x0801:
                self._on_request(op, body)

    def _on_request(self, op: int, body: bytes) -> None:
        self.requests.append((op, body))
        if op == 2:
            self.reset()
            return
        answer = self.answers.get(op, (0, b""))
        if answer is not None:
            self.post(op, *answer)
        events, self.events = self.events, []
        for event in events:
            self.post(17, 0, event)
