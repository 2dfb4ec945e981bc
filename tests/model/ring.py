"""The device's side of iavf rings in slow, plain Python: the yardstick for compiled ones.

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
    rxdid: int = 1

    def put(
        self,
        tail: int,
        data: bytes,
        *,
        l2tag1: int = 0,
        rss: int = 0,
        bits: int = 0,
        aux: tuple[int | None, int | None] = (None, None),
    ) -> bool:
        """Deliver one frame below `tail`; False when its buffers are not all posted.

        `bits` is ORed into qword 1 of every legacy descriptor (status, error, ptype); the flexible
        formats say the same in their own way.  `aux` are words of headers.
        """
        pieces = [data[i : i + self.buf_size] for i in range(0, len(data), self.buf_size)]
        if len(pieces) > (tail - self.head) % self.ring_len:
            return False
        for left, piece in zip(reversed(range(len(pieces))), pieces, strict=True):
            slot = self.ring + 32 * self.head
            address = struct.unpack("<Q", self.memory.read(slot, 8))[0]
            self.memory.write(address, piece)
            status = bits | 1 | (0 if left else 2)
            if self.rxdid == 1:
                made = legacy(status, len(piece), l2tag1, rss)
            else:
                made = flexible(self.rxdid, status, len(piece), l2tag1, rss, aux)
            self.memory.write(slot, made)
            self.head = (self.head + 1) % self.ring_len
        return True


def legacy(status: int, length: int, l2tag1: int, rss: int) -> bytes:
    """A legacy writeback, RXDID 1."""
    return struct.pack("<HHIQQQ", 0, l2tag1, rss, status | length << 38, 0, 0)


def flexible(
    rxdid: int,
    status: int,
    length: int,
    l2tag1: int,
    rss: int,
    aux: tuple[int | None, int | None] = (None, None),
) -> bytes:
    """A flexible writeback with the meaning of the legacy `status`, field by field.

    All have the hash in bytes 12-15 and the flow id in 24-27, but RXDID 22 the other way round.
    """
    status0 = (
        (status & 1)  # DD
        | (status >> 1 & 1) << 1  # EOF
        | (status >> 3 & 1) << 3  # L3L4P
        | (status >> 22 & 1) << 4  # IPE
        | (status >> 23 & 1) << 5  # L4E
        | (1 if status >> 12 & 3 == 3 else 0) << 12  # RSS_VALID
        | (status >> 2 & 1) << 13  # L2TAG1P
    )
    no_flow = 0xFFFF_FFFF
    return struct.pack(
        "<BBHHHHHIHBBHHIHH",
        rxdid,
        (status >> 9 & 3) << 6,  # UMBCAST
        status >> 30 & 0xFF,  # ptype
        length,
        0,  # header length
        status0,
        l2tag1,
        no_flow if rxdid == 22 else rss,
        (aux[0] is not None) << 14 | (aux[1] is not None) << 15,  # status_error1
        0,  # flags
        0,  # timestamp low
        0,  # L2TAG2, first or raw checksum
        0,  # L2TAG2, second
        rss if rxdid == 22 else no_flow,
        aux[0] or 0,  # these two, or timestamp high
        aux[1] or 0,
    )
