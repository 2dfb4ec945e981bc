"""Rings of two VFs filled by numpy, for benches of the device side alone.

A round restores the descriptors of both rings, moves the tails on by a whole ring but one slot, and
lets the engine step in this very thread; only the step is timed.
"""

import itertools
import mmap
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.frames import TCP_HEADERS
from emuiavf._dma import MemTable
from emuiavf._ring import Vf
from emuiavf.datapath.engine import Engine
from emuiavf.emudev import vdev
from emuiavf.emudev.info import RssConfig, RxFilter, RxQueueConfig, TxQueueConfig, VlanOffload
from emuiavf.emudev.vdev import VdevArgs
from emuiavf.ports import kinds

MEMORY = 16 << 20
BUFFER = 2048
# From one buffer to the next, as in DPDK's pools (header, mbuf, headroom): at powers of two all of
# them would share a few sets of the caches, and the loops would wait for that.
STRIDE = 64 + 128 + 128 + BUFFER
QRX_TAIL = 0x2000
OTHER_MAC = bytes.fromhex("020000000003")
TX_LAST = 0x10 | 0x40
TX_REPORT = 0x20
TX_CONTEXT = 0x1
TX_SEGMENT = 0x10
# A driver asks for a report (RS) once per so many descriptors.
REPORT_EVERY = 32
BURST = 32
RX_PACKETS = 6
ALL_CLASSES = 0x7FFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class Request:
    """What a driver asks of the device for each frame, in bits of a Tx descriptor's qword 1.

    `command`: beside those of the last descriptor.  `mss`: not 0 for a frame that is to be
    segmented; it then has a context descriptor and one descriptor per buffer.
    """

    command: int = 0
    mss: int = 0


PLAIN = Request()
_LENGTHS_4 = 14 // 2 << 16 | 20 // 4 << 23
VLAN = Request(0x80 | 7 << 48)
CSUM_UDP = Request(3 << 9 | 3 << 12 | _LENGTHS_4 | 8 // 4 << 30)
TSO_TCP = Request(3 << 9 | 1 << 12 | _LENGTHS_4 | 20 // 4 << 30, mss=1448)


class Guest:
    """Memory, rings and doorbells of one VF, and the VF."""

    def __init__(
        self, name: str, mac: bytes, ring_len: int, judged: bool, hashed: bool, strip: bool
    ) -> None:
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
        self.tx = self.memory[0x10000:].view(np.uint64)[: 2 * ring_len].reshape(ring_len, 2)
        self.rx = self.memory[0x80000:].view(np.uint64)[: 4 * ring_len].reshape(ring_len, 4)
        buffers = np.arange(ring_len, dtype=np.uint64) * np.uint64(STRIDE)
        self.tx_buffers = buffers + np.uint64(0x100000)
        self.rx_fresh = np.zeros((ring_len, 4), np.uint64)
        self.rx_fresh[:, 0] = buffers + np.uint64(0x800000)
        self.tx_fresh = np.zeros((ring_len, 2), np.uint64)
        self.vf = Vf(name, self.mem, self.doorbells, self.rows, 1, 2, self.fault_fd, judge=judged)
        self.vf.configure_tx(TxQueueConfig(0, ring_len, 0x10000))
        self.vf.configure_rx(RxQueueConfig(0, ring_len, 0x80000, BUFFER, 9728))
        self.vf.set_filter(RxFilter(macs=frozenset({mac})))
        if hashed:
            self.vf.set_rss(RssConfig(key=bytes(range(1, 53)), hena=ALL_CLASSES))
        self.vf.set_vlan(VlanOffload(strip=strip))
        self.vf.set_bus_master(True)
        self.vf.enable(1, 1)

    def load(self, frame: bytes, request: Request, *others: bytes) -> int:
        """The frame that every Tx descriptor, or every group of them, sends, by turns with others
        that need no group; the group's size."""
        if request.mss == 0:
            turns = itertools.cycle((frame, *others))
            for slot, sent in zip(range(self.ring_len), turns, strict=False):
                address = int(self.tx_buffers[slot])
                self.memory[address : address + len(sent)] = np.frombuffer(sent, np.uint8)
                self.tx_fresh[slot] = address, TX_LAST | request.command | len(sent) << 34
            self.tx_fresh[REPORT_EVERY - 1 :: REPORT_EVERY, 1] |= TX_REPORT
            return 1
        buffers = -(-len(frame) // BUFFER)
        group = 1 + buffers
        address = int(self.tx_buffers[0])
        context = TX_CONTEXT | TX_SEGMENT | len(frame) - TCP_HEADERS << 30 | request.mss << 50
        self.memory[address : address + len(frame)] = np.frombuffer(frame, np.uint8)
        if self.ring_len % group:
            raise ValueError(f"{self.ring_len} descriptors are not a number of groups of {group}")
        for first in range(0, self.ring_len, group):
            self.tx_fresh[first] = 0, context
            for number in range(buffers):
                size = min(BUFFER, len(frame) - number * BUFFER)
                word = request.command | size << 34
                if number == buffers - 1:
                    word |= TX_LAST | TX_REPORT
                self.tx_fresh[first + 1 + number] = address + number * BUFFER, word
        return group

    def rearm(self, received: int, sent: int) -> None:
        """Descriptors as a driver posts them: a whole ring of buffers but one slot behind those
        `received` since the start, and Tx descriptors up to `sent`."""
        self.tx[:] = self.tx_fresh
        self.rx[:] = self.rx_fresh
        self.tails[QRX_TAIL // 4] = (received + self.ring_len - 1) % self.ring_len
        self.tails[0] = sent % self.ring_len


class Pair:
    """Two guests joined 1:1: the first one sends the frames by turns, the second one receives.

    `judged`: the receiver gets verdicts of checksums; `hashed`: and hashes (as judged, without);
    `strip`: tags in the descriptor.  `switched`: by a switch, with a third one that gets nothing.
    `frames` is what one round delivers.
    """

    def __init__(
        self,
        frame: bytes,
        *others: bytes,
        ring_len: int = 512,
        judged: bool = False,
        hashed: bool | None = None,
        strip: bool = False,
        request: Request = PLAIN,
        switched: bool = False,
    ) -> None:
        self.engine = Engine()
        macs = {"sender": frame[6:12], "receiver": frame[:6]}
        hashed = judged if hashed is None else hashed
        self.sender, self.receiver = (
            Guest(name, mac, ring_len, judged, hashed, strip) for name, mac in macs.items()
        )
        self.group = self.sender.load(frame, request, *others)
        self._guests = [self.sender, self.receiver]
        if switched:
            self._guests.append(Guest("other", OTHER_MAC, ring_len, judged, hashed, strip))
        for guest in self._guests:
            self.engine.add(guest.vf)
        self.engine.connect(*(guest.vf for guest in self._guests))
        segments = -(-(len(frame) - TCP_HEADERS) // request.mss) if request.mss else 1
        # As many as fit into both rings; a group never crosses the end of its ring.
        self.sent = min((ring_len - 1) // segments, (ring_len - self.group) // self.group)
        self.frames = self.sent * segments
        self.turns = -(-self.sent // BURST) if segments == 1 else self.sent
        self._received = self._posted = 0

    def round(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> int:
        """Move one ring of frames; nanoseconds it took.  RuntimeError when some did not arrive.

        The step that moves them runs within `around`.
        """
        before = int(self.receiver.rows[0, RX_PACKETS])
        self._posted += self.sent * self.group
        self.sender.rearm(0, self._posted)
        # The receiver only receives.
        self.receiver.rearm(self._received, 0)
        took = timed(self.engine, self.turns, around)
        expect(int(self.receiver.rows[0, RX_PACKETS]) - before, self.frames)
        self._received += self.frames
        return took


def _port(kind: str, **options: str) -> tuple[Any, np.ndarray[Any, np.dtype[np.uint64]]]:
    """A port and its counters."""
    found = kinds[kind]
    rows = np.zeros((len(found.row_names), 16), np.uint64)
    values = vdev.resolve(VdevArgs(kind, f"{kind}0", options), found.options)
    return found.create(f"{kind}0", values, rows), rows


class Drained:
    """A guest that sends into a port that counts.  `frames` is what one round delivers."""

    def __init__(self, frame: bytes, *, ring_len: int = 512) -> None:
        self.engine = Engine()
        self.sender = Guest("sender", frame[6:12], ring_len, False, False, False)
        self.sender.load(frame, PLAIN)
        self._port, self._rows = _port("null")
        for endpoint in (self.sender.vf, self._port):
            self.engine.add(endpoint)
        self.engine.connect(self.sender.vf, self._port)
        self.frames = ring_len - 1
        self._posted = 0

    def round(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> int:
        """Send one ring of frames; nanoseconds it took.  RuntimeError when some did not arrive."""
        before = int(self._rows[0, RX_PACKETS])
        self._posted += self.frames
        self.sender.rearm(0, self._posted)
        took = timed(self.engine, -(-self.frames // BURST), around)
        expect(int(self._rows[0, RX_PACKETS]) - before, self.frames)
        return took


class Fed:
    """A guest that receives from a generating port.  `frames` is what one round delivers."""

    def __init__(self, size: int, *, ring_len: int = 512, judged: bool = False) -> None:
        self.engine = Engine()
        mac = bytes.fromhex("020000000002")
        self.receiver = Guest("receiver", mac, ring_len, judged, judged, False)
        self._port, _ = _port("gen", size=str(size), dst=mac.hex(":"))
        for endpoint in (self.receiver.vf, self._port):
            self.engine.add(endpoint)
        self.engine.connect(self._port, self.receiver.vf)
        self.turns = (ring_len - 1) // BURST
        self.frames = self.turns * BURST
        self._received = 0

    def round(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> int:
        """Receive almost a ring of frames; nanoseconds it took.  RuntimeError when some did not
        arrive."""
        before = int(self.receiver.rows[0, RX_PACKETS])
        self.receiver.rearm(self._received, 0)
        took = timed(self.engine, self.turns, around)
        expect(int(self.receiver.rows[0, RX_PACKETS]) - before, self.frames)
        self._received += self.frames
        return took


class Told:
    """A generating port that feeds a verifying one.  `frames` is what one round delivers."""

    def __init__(self, size: int, *, turns: int = 16) -> None:
        self.engine = Engine()
        gen, _ = _port("gen", size=str(size))
        verify, rows = _port("verify")
        self._told = rows[2]
        for endpoint in (gen, verify):
            self.engine.add(endpoint)
        self.engine.connect(gen, verify)
        self.turns = turns
        self.frames = turns * BURST

    def round(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> int:
        """Make and check frames; nanoseconds it took.  RuntimeError when some were not right."""
        before = self._told.tolist()
        took = timed(self.engine, self.turns, around)
        frames, *others = (now - was for now, was in zip(self._told.tolist(), before, strict=True))
        expect(frames - sum(others[:3]), self.frames)
        return took


def timed(engine: Engine, turns: int, around: Callable[[], AbstractContextManager[None]]) -> int:
    """Nanoseconds of so many turns within `around`."""
    with around():
        began = time.perf_counter_ns()
        engine.step(turns)
        return time.perf_counter_ns() - began


def expect(moved: int, frames: int) -> None:
    if moved != frames:
        raise RuntimeError(f"{moved} of {frames} frames arrived")
