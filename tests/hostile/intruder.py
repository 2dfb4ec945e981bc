"""The toolbox of an attacker: a raw client, guest memory of every kind, rings laid by hand.

It shares tables with the product and no logic; nothing in it keeps to a rule.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from emuiavf.emudev.info import DmaProt
from emuiavf.iavf import regs
from emuiavf.stats import SegmentId, SegmentView
from emuiavf.vfio_user.client import Client, eventfds
from emuiavf.virtchnl.ops import Op, Status
from tests.fakes.vf_driver import LINUX, ClientBar, Received, VfDriver
from tests.hostile.backend import wait_for

BAR0, BAR3, CONFIG = 0, 3, 7
RAM_SIZE = 16 << 20
TX_RING, RX_RING, TX_BUFFERS, RX_BUFFERS = 0x80_0000, 0x82_0000, 0x84_0000, 0x90_0000
RING_LEN = 64
BUFFER = 2048
# An IOVA that nothing is mapped at, and where attacks put maps of their own.
NOWHERE, ELSEWHERE = 0x5000_0000_0000, 0x4000_0000
EOP, RS = 0x10, 0x20
DTYPE_DONE = 15
MALICIOUS, TX_ERRORS, TX_PACKETS = 8, 5, 6
RX_PACKETS, RX_BAD_ADDRESS = 6, 10


class Ram:
    """A memfd, or a file that can be shortened at any time, seen as guest memory from 0 on."""

    def __init__(self, size: int = RAM_SIZE, *, shrinkable: bool = False) -> None:
        if shrinkable:
            self.fd, path = tempfile.mkstemp(prefix="hostile-", dir="/dev/shm")
            os.unlink(path)
        else:
            self.fd = os.memfd_create("hostile-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.size = size
        self.map = mmap.mmap(self.fd, size)

    def read(self, iova: int, size: int) -> bytes:
        return self.map[iova : iova + size]

    def write(self, iova: int, data: bytes) -> None:
        self.map[iova : iova + len(data)] = data

    def vanish(self, size: int = 0) -> None:
        os.ftruncate(self.fd, size)

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


@dataclass(frozen=True)
class Queue:
    """Queue pair 0 as an attack wants it laid out; numbers are the guest's, right or wrong."""

    tx_ring: int = TX_RING
    rx_ring: int = RX_RING
    tx_len: int = RING_LEN
    rx_len: int = RING_LEN
    databuffer_size: int = BUFFER
    max_pkt_size: int = 1534
    tx_vsi: int = 1
    rx_vsi: int = 1
    tx_id: int = 0
    rx_id: int = 0
    headwb: int = 0
    crc_disable: int = 0

    def encode(self) -> bytes:
        """CONFIG_VSI_QUEUES of this one pair."""
        tx = (self.tx_vsi, self.tx_id, self.tx_len, self.headwb, self.tx_ring, 0)
        rx = (self.rx_vsi, self.rx_id, self.rx_len, 0, 0, self.databuffer_size)
        rest = (self.max_pkt_size, self.crc_disable, 1, 0, 0, self.rx_ring, 0, 0)
        pair = struct.pack("<HHHHQQ", *tx) + struct.pack("<HHIHHIIBBBBQiI", *rx, *rest)
        return struct.pack("<HHI", 1, 1, 0) + pair


@dataclass
class Intruder:
    """One client of the device under attack, with memory and admin queues of its own."""

    path: str
    pid: int
    device: str
    ram_kind: Callable[[], Ram] = Ram
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.client = self.stack.enter_context(Client(self.path, timeout_s=20))
        self.ram = self.ram_kind()
        self.stack.callback(self.ram.close)
        self.client.dma_map(0, self.ram.size, self.ram.fd)
        self.client.region_write(CONFIG, 4, b"\x06\x00")
        self.driver = VfDriver(self.ram, ClientBar(self.client), LINUX)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    # Registers and messages

    def read32(self, offset: int) -> int:
        return self.client.read32(BAR0, offset)

    def write32(self, offset: int, value: int) -> None:
        self.client.write32(BAR0, offset, value)

    def rpc(self, opcode: int, body: bytes = b"") -> Received:
        """One request and its answer; events in between are read and forgotten.

        It may take its time: who asks much is served later.
        """
        self.driver.send(opcode, body)
        while True:
            reply: Received = wait_for(f"the reply to opcode {opcode}", self.driver.receive)
            if reply.opcode == opcode & 0xFFFF_FFFF:
                return reply

    def settle(self) -> None:
        """Wait until every request has been taken."""
        wait_for(
            "the end of the admin queue",
            lambda: self.read32(regs.ATQH1.offset) == self.driver.next_to_use,
        )

    def status(self, opcode: int, body: bytes = b"") -> int:
        return self.rpc(opcode, body).status

    def negotiate(self) -> None:
        """From nothing to GET_VF_RESOURCES, with every capability there is."""
        self.driver.open()
        assert self.status(Op.VERSION, struct.pack("<II", 1, 1)) == 0
        resources = self.rpc(Op.GET_VF_RESOURCES, struct.pack("<I", 0xFFFF_FFFF))
        assert resources.status == 0
        self.mac = resources.body[30:36]
        self.driver.receive_all()

    # Queues

    def configure(self, queue: Queue | None = None) -> int:
        """CONFIG_VSI_QUEUES; the status."""
        return self.status(Op.CONFIG_VSI_QUEUES, (queue or Queue()).encode())

    def enable(self, queues: int = 1) -> int:
        return self.status(Op.ENABLE_QUEUES, struct.pack("<HHII", 1, 0, queues, queues))

    def disable(self, queues: int = 1) -> int:
        return self.status(Op.DISABLE_QUEUES, struct.pack("<HHII", 1, 0, queues, queues))

    def post_buffers(self, address: Callable[[int], int] | None = None) -> None:
        """Fill the Rx ring; `address` of a slot may be anything."""
        place = address or (lambda slot: RX_BUFFERS + slot * BUFFER)
        for slot in range(RING_LEN):
            self.ram.write(RX_RING + slot * 32, struct.pack("<QQQQ", place(slot), 0, 0, 0))

    def start(self, queue: Queue | None = None) -> None:
        """Queue pair 0 runs, with every Rx buffer posted."""
        self.post_buffers()
        assert self.configure(queue) == 0
        self.write32(regs.QRX_TAIL1.at(0), RING_LEN - 1)
        assert self.enable() == 0
        self.slot = 0

    def describe(self, *descriptors: tuple[int, int]) -> None:
        """Write Tx descriptors from the next slot on and ring."""
        for low, high in descriptors:
            self.ram.write(TX_RING + self.slot * 16, struct.pack("<QQ", low, high))
            self.slot = (self.slot + 1) % RING_LEN
        self.write32(regs.QTX_TAIL1.at(0), self.slot)

    def frame(self, size: int = 200) -> bytes:
        """A frame to this very VF."""
        return (self.mac + self.mac + b"\x88\xb5").ljust(size, b"\xa5")

    def send(self, size: int = 200) -> int:
        """Send a good frame; the slot of its descriptor."""
        slot = self.slot
        self.ram.write(TX_BUFFERS, self.frame(size))
        self.describe((TX_BUFFERS, EOP | RS | size << 34))
        return slot

    def is_done(self, slot: int) -> bool:
        return self.ram.read(TX_RING + slot * 16 + 8, 1)[0] & 15 == DTYPE_DONE

    def is_received(self, slot: int) -> bool:
        return bool(self.ram.read(RX_RING + slot * 32 + 8, 1)[0] & 1)

    def carry(self) -> None:
        """A frame there and back: the queue pair works."""
        before = self.counter("rx-0", RX_PACKETS)
        slot = self.send()
        wait_for("the completion of a frame", lambda: self.is_done(slot))
        wait_for("its arrival", lambda: self.counter("rx-0", RX_PACKETS) > before)

    def reset_vf(self) -> None:
        """RESET_VF, and everything set up anew: what cures a stopped queue."""
        self.driver.send(Op.RESET_VF)
        wait_for("the reset", lambda: self.read32(regs.ARQLEN1.offset) == 0)
        wait_for("its end", lambda: self.read32(regs.VFGEN_RSTAT.offset) == 2)
        self.negotiate()

    def cure(self) -> None:
        """After a VF reset the device works as before."""
        self.reset_vf()
        self.start()
        self.carry()

    def cure_by_reset(self) -> None:
        """After a reset of the whole device, too."""
        self.client.reset()
        self.client.region_write(7, 4, b"\x06\x00")
        self.negotiate()
        self.start()
        self.carry()

    # What the device says about itself

    def counter(self, row: str, column: int) -> int:
        view = SegmentView(SegmentId(self.pid, self.device))
        return int(view.rows[view.row(row), column])

    # More memory

    def map(
        self,
        iova: int,
        size: int,
        *,
        prot: DmaProt = DmaProt.READ | DmaProt.WRITE,
        shrinkable: bool = False,
    ) -> Ram:
        """More guest memory, at `iova`; the Ram counts from 0."""
        ram = Ram(size, shrinkable=shrinkable)
        self.stack.callback(ram.close)
        self.client.dma_map(iova, size, ram.fd, prot=prot)
        return ram

    def eventfds(self, count: int) -> list[int]:
        made = eventfds(count)
        for fd in made:
            self.stack.callback(os.close, fd)
        return made


REFUSED = (Status.ERR_PARAM, Status.NOT_SUPPORTED)
