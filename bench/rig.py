"""Rings of two VFs filled by numpy, for benches of the device side alone.

A round restores the descriptors of both rings, moves the tails on by a whole ring but one slot, and
lets the engine step in this very thread; only the step is timed.
"""

import mmap
import os
import time

import numpy as np

from emuiavf._dma import MemTable
from emuiavf._ring import Vf
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxFilter, RxQueueConfig, TxQueueConfig

MEMORY = 16 << 20
BUFFER = 2048
QRX_TAIL = 0x2000
TX_LAST = 0x10 | 0x40
TX_REPORT = 0x20
# A driver asks for a report (RS) once per so many descriptors.
REPORT_EVERY = 32
ALL_CLASSES = 0x7FFF_FFFF_FFFF_FFFF


class Guest:
    """Memory, rings and doorbells of one VF, and the VF."""

    def __init__(self, name: str, mac: bytes, ring_len: int, judged: bool) -> None:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, MEMORY)
        self.memory = np.frombuffer(mmap.mmap(fd, MEMORY), np.uint8)
        self.mem = MemTable()
        self.mem.map(0, MEMORY, 3, fd, 0)
        self.doorbells = mmap.mmap(-1, 0x4000)
        self.tails = np.frombuffer(self.doorbells, np.uint32)
        self.rows = np.zeros((2, 16), np.uint64)
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.ring_len = ring_len
        self.tail = 0
        self.tx = self.memory[0x10000:].view(np.uint64)[: 2 * ring_len].reshape(ring_len, 2)
        self.rx = self.memory[0x80000:].view(np.uint64)[: 4 * ring_len].reshape(ring_len, 4)
        buffers = np.arange(ring_len, dtype=np.uint64) * np.uint64(BUFFER)
        self.tx_buffers = buffers + np.uint64(0x100000)
        self.rx_fresh = np.zeros((ring_len, 4), np.uint64)
        self.rx_fresh[:, 0] = buffers + np.uint64(0x800000)
        self.tx_fresh = np.zeros((ring_len, 2), np.uint64)
        self.vf = Vf(name, self.mem, self.doorbells, self.rows, 1, 2, self.fault_fd, judge=judged)
        self.vf.configure_tx(TxQueueConfig(0, ring_len, 0x10000))
        self.vf.configure_rx(RxQueueConfig(0, ring_len, 0x80000, BUFFER, 9728))
        self.vf.set_filter(RxFilter(macs=frozenset({mac})))
        if judged:
            self.vf.set_rss(RssConfig(key=bytes(range(1, 53)), hena=ALL_CLASSES))
        self.vf.set_bus_master(True)
        self.vf.enable(1, 1)

    def load(self, frame: bytes) -> None:
        """The frame that every Tx descriptor sends."""
        data = np.frombuffer(frame, np.uint8)
        for address in self.tx_buffers:
            self.memory[int(address) : int(address) + len(frame)] = data
        self.tx_fresh[:, 0] = self.tx_buffers
        self.tx_fresh[:, 1] = TX_LAST | len(frame) << 34
        self.tx_fresh[REPORT_EVERY - 1 :: REPORT_EVERY, 1] |= TX_REPORT

    def rearm(self) -> None:
        """Descriptors as a driver posts them, tails a whole ring but one slot further on."""
        self.tx[:] = self.tx_fresh
        self.rx[:] = self.rx_fresh
        self.tail = (self.tail + self.ring_len - 1) % self.ring_len
        self.tails[QRX_TAIL // 4] = self.tail
        self.tails[0] = self.tail


class Pair:
    """Two guests joined 1:1: the first one sends, the second one receives."""

    def __init__(self, frame: bytes, *, ring_len: int = 512, judged: bool = False) -> None:
        self.engine = Engine()
        self.sender = Guest("sender", frame[6:12], ring_len, judged)
        self.receiver = Guest("receiver", frame[:6], ring_len, judged)
        self.sender.load(frame)
        for guest in (self.sender, self.receiver):
            self.engine.add(guest.vf)
        self.engine.connect(self.sender.vf, self.receiver.vf)
        self.frames = ring_len - 1
        self.turns = -(-self.frames // 32)

    def round(self) -> int:
        """Move one ring of frames; nanoseconds it took.  RuntimeError when some did not arrive."""
        before = int(self.receiver.rows[0, 6])
        for guest in (self.sender, self.receiver):
            guest.rearm()
        # The receiver only receives.
        self.receiver.tails[0] = 0
        began = time.perf_counter_ns()
        self.engine.step(self.turns)
        took = time.perf_counter_ns() - began
        moved = int(self.receiver.rows[0, 6]) - before
        if moved != self.frames:
            raise RuntimeError(f"{moved} of {self.frames} frames arrived")
        return took
