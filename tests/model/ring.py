"""The device's side of legacy iavf rings in slow, plain Python: the yardstick for compiled ones.

`TxModel.take` reads what a driver has posted, `RxModel.put` delivers a frame; both work on bytes
of guest memory and follow the AVF descriptor formats word by word.  No offload is carried out.
"""

import struct
from dataclasses import dataclass


@dataclass
class Memory:
    """Guest memory at one IOVA, over any writable buffer."""

    data: memoryview
    iova: int

    def read(self, iova: int, size: int) -> bytes:
        return bytes(self.data[iova - self.iova : iova - self.iova + size])

    def write(self, iova: int, data: bytes) -> None:
        self.data[iova - self.iova : iova - self.iova + len(data)] = data


@dataclass(frozen=True)
class Taken:
    """A frame as its descriptors describe it: qword 1 of the first data descriptor, context."""

    data: bytes
    qword1: int
    context: tuple[int, int] | None


@dataclass
class TxModel:
    memory: Memory
    ring: int
    ring_len: int
    head: int = 0

    def take(self, tail: int) -> list[Taken]:
        """Every complete frame below `tail`; descriptors with RS are reported done."""
        frames = []
        at, data, first, context = self.head, b"", None, None
        while at != tail:
            slot = self.ring + 16 * at
            address, qword1 = struct.unpack("<QQ", self.memory.read(slot, 16))
            at = (at + 1) % self.ring_len
            if qword1 & 0xF == 1:
                context = (address, qword1)
                continue
            assert qword1 & 0xF == 0, f"descriptor type {qword1 & 0xF}"
            first = qword1 if first is None else first
            data += self.memory.read(address, qword1 >> 34 & 0x3FFF)
            if qword1 & 1 << 5:
                self.memory.write(slot + 8, struct.pack("<Q", 0xF))
            if qword1 & 1 << 4:
                frames.append(Taken(data, first, context))
                self.head, data, first, context = at, b"", None, None
        return frames


@dataclass
class RxModel:
    memory: Memory
    ring: int
    ring_len: int
    buf_size: int
    head: int = 0

    def put(self, tail: int, data: bytes, *, l2tag1: int = 0, rss: int = 0, bits: int = 0) -> bool:
        """Deliver one frame below `tail`; False when its buffers are not all posted.

        `bits` is ORed into qword 1 of every descriptor (status, error, ptype).
        """
        pieces = [data[i : i + self.buf_size] for i in range(0, len(data), self.buf_size)]
        if len(pieces) > (tail - self.head) % self.ring_len:
            return False
        for left, piece in zip(reversed(range(len(pieces))), pieces, strict=True):
            slot = self.ring + 32 * self.head
            address = struct.unpack("<Q", self.memory.read(slot, 8))[0]
            self.memory.write(address, piece)
            qword1 = bits | 1 | (0 if left else 2) | len(piece) << 38
            words = struct.pack("<HHIQQQ", 0, l2tag1, rss, qword1, 0, 0)
            self.memory.write(slot, words)
            self.head = (self.head + 1) % self.ring_len
        return True
