"""The driver's half of the rings as bytes in guest memory: slow, obvious, for tests.

`Driver` owns a memfd, the doorbell pages and one `_ring.Vf`; it writes descriptors with struct and
reads back what the device wrote.  It shares no logic with the product.
"""

import mmap
import os
import struct
from dataclasses import dataclass

import numpy as np

from emuiavf._dma import MemTable
from emuiavf._ring import Vf
from emuiavf.emudev.info import RxQueueConfig, TxQueueConfig, VectorMap

SIZE = 32 << 20
QRX_TAIL = 0x2000
DYN_CTLN = 0x3800
STALE = 0xA5


# The writeback format of drivers that name none; a test module may run with each.
RXDID = 1
# Descriptors of drivers, for a test module that has many of them to close.
opened: list[int] = []


@dataclass(frozen=True)
class Received:
    """One frame, reassembled from its descriptors; what they say, whatever their format."""

    data: bytes
    qwords: tuple[int, int, int, int]
    buffers: int
    rxdid: int = 1

    @property
    def ptype(self) -> int:
        return self.qwords[1] >> 30 & 0xFF if self.rxdid == 1 else self.qwords[0] >> 16 & 0x3FF

    @property
    def hash(self) -> int:
        at_12, at_24 = self.qwords[1] >> 32, self.qwords[3] & 0xFFFF_FFFF
        return {1: self.qwords[0] >> 32, 22: at_24}.get(self.rxdid, at_12)

    @property
    def hashed(self) -> bool:
        if self.rxdid == 1:
            return self.qwords[1] >> 12 & 3 == 3
        return bool(self.qwords[1] >> 12 & 1)

    @property
    def l2tag1(self) -> int | None:
        if self.rxdid == 1:
            return self.qwords[0] >> 16 & 0xFFFF if self.qwords[1] & 4 else None
        return self.qwords[1] >> 16 & 0xFFFF if self.qwords[1] >> 13 & 1 else None

    @property
    def l3l4p(self) -> bool:
        return bool(self.qwords[1] & 8)

    @property
    def errors(self) -> int:
        """As in the legacy format: bit 3 IPE, bit 4 L4E."""
        if self.rxdid == 1:
            return self.qwords[1] >> 19 & 0xFF
        return (self.qwords[1] >> 4 & 3) << 3 | self.qwords[1] >> 10 & 1

    @property
    def words(self) -> tuple[int | None, int | None]:
        """Words of headers."""
        first, second = self.qwords[3] >> 32 & 0xFFFF, self.qwords[3] >> 48
        valid = self.qwords[2] >> 14 & 3
        assert valid & 1 or not first, "a word that is not valid"
        assert valid & 2 or not second, "a word that is not valid"
        return first if valid & 1 else None, second if valid & 2 else None

    @property
    def time(self) -> int | None:
        """Low 32 bits of the nanoseconds."""
        return self.qwords[3] >> 32 if self.qwords[2] >> 24 & 0xFF == 1 else None

    @property
    def unused_are_clear(self) -> bool:
        """Nothing stale where no feature of ours writes, and no flow is marked."""
        high = {1: 0, 22: self.qwords[3] & 0xFFFF_FFFF}.get(self.rxdid, 0xFFFF_FFFF)
        flow = self.rxdid != 22 or self.qwords[1] >> 32 == 0xFFFF_FFFF
        return self.qwords[2:] == (0, high) and flow


class Driver:
    """One guest with N queue pairs; IOVA 0 upwards is its memory."""

    def __init__(
        self,
        name="vf",
        queues=1,
        ring_len=64,
        buffer_size=2048,
        max_pkt_size=9728,
        fault_fd=None,
        judge=True,
        rxdid=None,
        timestamps=False,
    ):
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        opened.append(self.fd)
        os.ftruncate(self.fd, SIZE)
        self.memory = mmap.mmap(self.fd, SIZE)
        self.mem = MemTable()
        self.mem.map(0, SIZE, 3, os.dup(self.fd), 0)
        self.doorbells = mmap.mmap(-1, 0x4000)
        self.registers = np.frombuffer(self.doorbells, np.uint32)
        self.rows = np.zeros((2 * queues, 16), np.uint64)
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK) if fault_fd is None else fault_fd
        if fault_fd is None:
            opened.append(self.fault_fd)
        self.vf = Vf(
            name,
            self.mem,
            self.doorbells,
            self.rows,
            queues,
            min(queues + 1, 65),
            self.fault_fd,
            judge=judge,
        )
        self.queues, self.ring_len, self.buffer_size = queues, ring_len, buffer_size
        self.rxdid = rxdid or RXDID
        self.top = 0x1000
        self.tx_ring = [self.take(ring_len * 16) for _ in range(queues)]
        self.rx_ring = [self.take(ring_len * 32) for _ in range(queues)]
        self.rx_buffer = [[self.take(buffer_size) for _ in range(ring_len)] for _ in range(queues)]
        self.tx_next = [0] * queues
        self.rx_next = [0] * queues
        self.rx_posted = [0] * queues
        for i in range(queues):
            self.vf.configure_tx(TxQueueConfig(i, ring_len, self.tx_ring[i]))
            self.vf.configure_rx(
                RxQueueConfig(
                    i,
                    ring_len,
                    self.rx_ring[i],
                    buffer_size,
                    max_pkt_size,
                    writeback=self.rxdid,
                    timestamps=timestamps,
                )
            )
        self.vf.set_bus_master(True)

    def take(self, size):
        """Guest memory for `size` bytes, 128-byte aligned."""
        at, self.top = self.top, (self.top + size + 127) & ~127
        assert self.top <= SIZE
        return at

    def enable(self):
        both = (1 << self.queues) - 1
        self.vf.enable(both, both)

    def configure_tx_anew(self, engine):
        """Stop the first Tx queue, lay its ring out and start it: at slot 0 once more."""
        self.vf.disable(0, 1)
        engine.publish()
        self.vf.configure_tx(TxQueueConfig(0, self.ring_len, self.tx_ring[0]))
        self.tx_next[0] = 0
        self.vf.enable(0, 1)
        engine.publish()

    def qword(self, address):
        return struct.unpack_from("<Q", self.memory, address)[0]

    def put_qwords(self, address, *values):
        struct.pack_into(f"<{len(values)}Q", self.memory, address, *values)

    def tail(self, offset, value):
        # One store: struct would write zeros first, which a running worker takes for a tail.
        self.registers[offset // 4] = value

    def post(self, count, queue=0):
        """Post `count` Rx buffers, filled with stale bytes."""
        for _ in range(count):
            slot = self.rx_posted[queue]
            buffer = self.rx_buffer[queue][slot]
            self.memory[buffer : buffer + self.buffer_size] = bytes([STALE]) * self.buffer_size
            at = self.rx_ring[queue] + slot * 32
            self.put_qwords(at, buffer, 0, 0x5555, 0x7777)
            self.rx_posted[queue] = (slot + 1) % self.ring_len
        self.tail(QRX_TAIL + 4 * queue, self.rx_posted[queue])

    def refill(self, count, queue=0):
        """The same, as far as there is room: a driver posts no slot again before it has taken what
        came there."""
        free = (self.rx_next[queue] - self.rx_posted[queue] - 1) % self.ring_len
        self.post(min(count, free), queue)

    def descriptors(self, words, queue=0):
        """Write raw Tx descriptors (address, qword1) and ring the doorbell."""
        for address, word in words:
            self.put_qwords(self.tx_ring[queue] + self.tx_next[queue] * 16, address, word)
            self.tx_next[queue] = (self.tx_next[queue] + 1) % self.ring_len
        self.tail(4 * queue, self.tx_next[queue])

    def send(self, data, queue=0, pieces=None, cmd=0, lengths=(0, 0, 0), tag=None, context=None):
        """Send one frame in `pieces` (sizes), RS on its last descriptor; returns that slot."""
        sizes = pieces or [len(data)]
        assert sum(sizes) == len(data)
        words, at = [], 0
        if context is not None:
            words.append(context)
        mac, ip, l4 = lengths
        common = (cmd << 4) | (mac // 2) << 16 | (ip // 4) << 23 | (l4 // 4) << 30
        if tag is not None:
            common |= 0x80 | tag << 48
        for number, size in enumerate(sizes):
            address = self.take(size)
            self.memory[address : address + size] = data[at : at + size]
            at += size
            last = 0x30 if number == len(sizes) - 1 else 0
            words.append((address, common | last | 0x40 | size << 34))
        self.descriptors(words, queue)
        return (self.tx_next[queue] - 1) % self.ring_len

    def tx_done(self, slot, queue=0):
        """Has the device written this descriptor back?"""
        return self.qword(self.tx_ring[queue] + slot * 16 + 8) & 0xF == 0xF

    def receive(self, queue=0):
        """Every frame that the device has completed."""
        frames, parts = [], []
        while True:
            slot = self.rx_next[queue]
            at = self.rx_ring[queue] + slot * 32
            words = struct.unpack_from("<4Q", self.memory, at)
            if slot == self.rx_posted[queue] or not words[1] & 1:
                assert not parts, "a frame without its end"
                return frames
            length = words[1] >> 38 if self.rxdid == 1 else words[0] >> 32
            buffer = self.rx_buffer[queue][slot]
            parts.append(self.memory[buffer : buffer + length])
            rest = self.memory[buffer + length : buffer + self.buffer_size]
            assert rest == bytes([STALE]) * len(rest), "wrote beyond the frame"
            self.rx_next[queue] = (slot + 1) % self.ring_len
            if words[1] & 2:
                frames.append(Received(b"".join(parts), words, len(parts), self.rxdid))
                parts = []

    def vector(self, vector=1, rx=1, tx=1, itr=(0, 1)):
        """Map queues to a vector with a fresh eventfd; returns the eventfd."""
        event = os.eventfd(0, os.EFD_NONBLOCK)
        opened.append(event)
        self.vf.map_vector(VectorMap(vector, rx, tx, *itr))
        self.vf.set_eventfd(vector, event)
        return event

    def arm(self, vector=1, value=0x19):
        self.tail(DYN_CTLN + 4 * (vector - 1), value)


def signalled(event):
    """Count of an eventfd, 0 when it was not written."""
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0
