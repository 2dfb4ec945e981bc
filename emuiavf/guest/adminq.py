"""The VF's ends of the admin queues: requests out on the ATQ, answers and events in on the ARQ.

Knows descriptors and registers, not what messages mean.  Facts: AVF admin queue; virtchnl opcode
and status travel in the cookies.
"""

import os
import select
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emuiavf.errors import EmuIavfError
from emuiavf.guest.bar import Bar0
from emuiavf.guest.memory import DmaMemory
from emuiavf.iavf import regs
from emuiavf.iavf.regs import AqDescriptor, AqFlag, AqLen, AqOpcode, AqRet

RING_LEN = 32
_SIZE = AqDescriptor.SIZE
# Without an interrupt the ring is looked at this often.
_POLL_S = 0.01
# A device with mapped registers works the queue when it has seen the new tail.
_COMPLETION_S = 0.25
_COMPLETION_POLL_S = 0.0001


class AdminQueueError(EmuIavfError):
    """The device does not work the admin queue as it must."""


def readable(fds: Sequence[int], timeout_s: float) -> list[int]:
    """Those of `fds` that can be read within `timeout_s`; their numbers may be of any size."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(timeout_s * 1000)]


@dataclass(frozen=True)
class AqMessage:
    """One message of the PF: virtchnl opcode, status, data."""

    opcode: int
    status: int
    body: bytes


class AdminQueue:
    """Both rings of one VF in its DMA memory; `open()` after every reset."""

    def __init__(self, bar: Bar0, memory: DmaMemory, irq_fd: int) -> None:
        """`irq_fd`: the eventfd of vector 0; it stays the caller's."""
        self._bar = bar
        self._is_mapped = bar.word(regs.ATQT1.offset) is not None
        self._irq_fd = irq_fd
        self._atq = memory.alloc(RING_LEN * _SIZE)
        self._arq = memory.alloc(RING_LEN * _SIZE)
        self._buffers = memory.alloc(2 * RING_LEN * regs.AQ_BUFFER_SIZE)
        self._next_send = 0
        self._next_receive = 0

    def open(self) -> None:
        """Set both rings up from nothing and have vector 0 signal messages."""
        self._next_send = self._next_receive = 0
        write = self._bar.write32
        for head, tail, low, high, length, ring in (
            (regs.ATQH1, regs.ATQT1, regs.ATQBAL1, regs.ATQBAH1, regs.ATQLEN1, self._atq),
            (regs.ARQH1, regs.ARQT1, regs.ARQBAL1, regs.ARQBAH1, regs.ARQLEN1, self._arq),
        ):
            ring.view[:] = bytes(ring.size)
            write(head.offset, 0)
            write(tail.offset, 0)
            write(length.offset, RING_LEN | AqLen.ENABLE)
            write(low.offset, ring.iova & 0xFFFF_FFFF)
            write(high.offset, ring.iova >> 32)
            if self._bar.read32(low.offset) != ring.iova & 0xFFFF_FFFF:
                raise AdminQueueError(f"{low.name} does not read back as written")
        for slot in range(RING_LEN):
            self._post(slot)
        write(regs.ARQT1.offset, RING_LEN - 1)
        write(regs.VFINT_ICR0_ENA1.offset, regs.Icr0.ADMINQ)
        self._arm()

    @property
    def is_enabled(self) -> bool:
        """False once a reset has taken the queues away."""
        return bool(self._bar.read32(regs.ARQLEN1.offset) & AqLen.ENABLE)

    def send(self, opcode: int, body: bytes = b"") -> None:
        """Post a virtchnl request; AdminQueueError when the device has not completed it."""
        self.send_raw(AqOpcode.SEND_MSG_TO_PF, opcode, body)

    def shutdown(self) -> None:
        """Tell the PF that the driver goes away, and switch the rings off."""
        self.send_raw(AqOpcode.QUEUE_SHUTDOWN, 0, b"", param0=1)
        self._bar.write32(regs.VFINT_ICR0_ENA1.offset, 0)
        self._bar.write32(regs.VFINT_DYN_CTL01.offset, 0)
        self._bar.write32(regs.ATQLEN1.offset, 0)
        self._bar.write32(regs.ARQLEN1.offset, 0)

    def send_raw(self, aq_opcode: int, cookie: int, body: bytes, param0: int = 0) -> None:
        """Post any descriptor on the ATQ and see it completed with retval 0."""
        slot = self._next_send
        flags = AqFlag.SI
        address = 0
        if body:
            flags |= AqFlag.BUF | AqFlag.RD
            flags |= AqFlag.LB if len(body) > regs.AQ_LARGE_BUFFER else 0
            address = self._write_buffer(slot, body)
        descriptor = AqDescriptor(
            flags=flags,
            opcode=aq_opcode,
            datalen=len(body),
            retval=0,
            cookie_high=cookie,
            cookie_low=0,
            param0=param0,
            param1=0,
            addr_high=address >> 32,
            addr_low=address & 0xFFFF_FFFF,
        )
        self._atq.view[slot * _SIZE : (slot + 1) * _SIZE] = descriptor.encode()
        self._next_send = (slot + 1) % RING_LEN
        # A write that traps is answered after the device has worked the queue.
        self._bar.write32(regs.ATQT1.offset, self._next_send)
        self._await_completion(slot)

    def receive(self) -> Iterator[AqMessage]:
        """Every message that is there now."""
        while True:
            slot = self._next_receive
            descriptor = AqDescriptor.decode(self._arq.view, slot * _SIZE)
            if not descriptor.flags & AqFlag.DD:
                return
            if descriptor.datalen > regs.AQ_BUFFER_SIZE:
                raise AdminQueueError(f"ARQ: datalen={descriptor.datalen} exceeds the buffer")
            start = (RING_LEN + slot) * regs.AQ_BUFFER_SIZE
            body = bytes(self._buffers.view[start : start + descriptor.datalen])
            self._post(slot)
            self._bar.write32(regs.ARQT1.offset, slot, posted=True)
            self._next_receive = (slot + 1) % RING_LEN
            yield AqMessage(descriptor.cookie_high, descriptor.cookie_low, body)

    def wait(self, deadline: float) -> bool:
        """Sleep until a message may be there; False at `deadline` (monotonic seconds)."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if readable([self._irq_fd], min(left, _POLL_S)):
            os.eventfd_read(self._irq_fd)
            self._arm()
        return True

    def _arm(self) -> None:
        none = regs.DYN_CTL_ITR_NONE << regs.DYN_CTL_ITR_SHIFT
        control = regs.DynCtl.INTENA | regs.DynCtl.CLEARPBA | none
        self._bar.write32(regs.VFINT_DYN_CTL01.offset, control)

    def _await_completion(self, slot: int) -> None:
        done = AqFlag.DD | AqFlag.CMP
        deadline = time.monotonic() + _COMPLETION_S
        while True:
            descriptor = AqDescriptor.decode(self._atq.view, slot * _SIZE)
            if descriptor.flags & done == done:
                break
            if not self._is_mapped or time.monotonic() > deadline:
                raise AdminQueueError(f"ATQ: descriptor {slot} is not completed")
            time.sleep(_COMPLETION_POLL_S)
        if descriptor.retval != AqRet.OK or descriptor.flags & AqFlag.ERR:
            raise AdminQueueError(
                f"ATQ: opcode {descriptor.opcode:#06x} failed with retval {descriptor.retval}"
            )

    def _write_buffer(self, slot: int, body: bytes) -> int:
        if len(body) > regs.AQ_BUFFER_SIZE:
            raise ValueError(f"{len(body)} bytes, at most {regs.AQ_BUFFER_SIZE}")
        start = slot * regs.AQ_BUFFER_SIZE
        self._buffers.view[start : start + len(body)] = body
        return self._buffers.iova + start

    def _post(self, slot: int) -> None:
        """Offer one ARQ buffer."""
        address = self._buffers.iova + (RING_LEN + slot) * regs.AQ_BUFFER_SIZE
        descriptor = AqDescriptor(
            flags=AqFlag.BUF | AqFlag.LB,
            opcode=0,
            datalen=regs.AQ_BUFFER_SIZE,
            retval=0,
            cookie_high=0,
            cookie_low=0,
            param0=0,
            param1=0,
            addr_high=address >> 32,
            addr_low=address & 0xFFFF_FFFF,
        )
        self._arq.view[slot * _SIZE : (slot + 1) * _SIZE] = descriptor.encode()
