"""Guest memory that vanishes: the file behind it is truncated while the device uses it.

For each the device says that it is broken and starts no queue until the memory is mapped anew.
"""

import struct
from collections.abc import Callable

from emuiavf.iavf import regs
from emuiavf.virtchnl.ops import Op, Status
from tests.hostile.attacks import Target, attack
from tests.hostile.attacks.rings import tcp_frame
from tests.hostile.backend import wait_for
from tests.hostile.intruder import (
    BUFFER,
    CONFIG,
    ELSEWHERE,
    EOP,
    MALICIOUS,
    RING_LEN,
    RS,
    Intruder,
    Queue,
    Ram,
)

SIZE = 0x40000
# IIPT, L4T and header lengths of `tcp_frame`.
TCP_CHECKSUM = 3 << 9 | 1 << 12 | 7 << 16 | 5 << 23 | 5 << 30


def stays_broken_until_mapped_anew(guest: Intruder, lost: Ram) -> None:
    """Admin queues in memory that is left still serve; queues start when the loss is made good."""
    wait_for("the refusal of ENABLE_QUEUES", lambda: restart(guest) == Status.ERR_PARAM)
    guest.client.dma_unmap(ELSEWHERE, SIZE)
    lost.vanish(SIZE)
    guest.client.dma_map(ELSEWHERE, SIZE, lost.fd)
    guest.cure()


def restart(guest: Intruder) -> int:
    guest.disable()
    assert guest.configure() == 0
    return guest.enable()


def in_vanishing_memory(target: Target, harm: Callable[[Intruder, Ram], None]) -> None:
    with target.intruder() as guest:
        lost = guest.map(ELSEWHERE, SIZE, shrinkable=True)
        guest.negotiate()
        guest.start()
        harm(guest, lost)
        stays_broken_until_mapped_anew(guest, lost)


@attack
def vanished_under_a_frame_being_sent(target: Target) -> None:
    def harm(guest: Intruder, lost: Ram) -> None:
        lost.vanish()
        slot = guest.slot
        guest.describe((ELSEWHERE, EOP | RS | 1500 << 34))
        wait_for("the end of the frame", lambda: guest.is_done(slot))

    in_vanishing_memory(target, harm)


@attack
def vanished_behind_the_head_of_a_frame(target: Target) -> None:
    """The head is there, the rest is not: the copy into the receiver's buffer faults."""

    def harm(guest: Intruder, lost: Ram) -> None:
        lost.write(0x1000 - 128, guest.frame(128))
        lost.vanish(0x1000)
        slot = guest.slot
        guest.describe((ELSEWHERE + 0x1000 - 128, EOP | RS | 1500 << 34))
        wait_for("the end of the frame", lambda: guest.is_done(slot))

    in_vanishing_memory(target, harm)


@attack
def vanished_under_a_frame_being_received(target: Target) -> None:
    def harm(guest: Intruder, lost: Ram) -> None:
        guest.post_buffers(lambda slot: ELSEWHERE + slot * BUFFER)
        lost.vanish()
        slot = guest.send(1500)
        wait_for("the end of the frame", lambda: guest.is_done(slot))

    in_vanishing_memory(target, harm)


@attack
def vanished_under_a_transmit_ring(target: Target) -> None:
    def harm(guest: Intruder, lost: Ram) -> None:
        guest.disable()
        assert guest.configure(Queue(tx_ring=ELSEWHERE)) == 0
        assert guest.enable() == 0
        before = guest.counter("tx-0", MALICIOUS)
        lost.vanish()
        guest.write32(regs.QTX_TAIL1.at(0), 5)
        wait_for("the stop of the queue", lambda: guest.counter("tx-0", MALICIOUS) > before)

    in_vanishing_memory(target, harm)


@attack
def vanished_under_a_receive_ring(target: Target) -> None:
    def harm(guest: Intruder, lost: Ram) -> None:
        guest.disable()
        assert guest.configure(Queue(rx_ring=ELSEWHERE)) == 0
        assert guest.enable() == 0
        guest.slot = 0
        guest.write32(regs.QRX_TAIL1.at(0), RING_LEN - 1)
        lost.vanish()
        slot = guest.send()
        wait_for("the end of the frame", lambda: guest.is_done(slot))

    in_vanishing_memory(target, harm)


@attack
def vanished_under_a_command_of_the_admin_queue(target: Target) -> None:
    """The buffer of a request: it fails, the device is broken, the admin queue itself goes on."""

    def harm(guest: Intruder, lost: Ram) -> None:
        lost.vanish()
        index = guest.driver.queue(Op.VERSION, struct.pack("<II", 1, 1))
        bad = guest.driver.descriptor(Op.VERSION, bytes(8), index)
        low, high = ELSEWHERE & 0xFFFF_FFFF, ELSEWHERE >> 32
        guest.driver.put_atq(
            index, type(bad)(bad.flags, bad.opcode, 8, 0, bad.cookie_high, 0, 0, 0, high, low)
        )
        guest.driver.ring()
        assert guest.driver.completed(index).retval != 0

    in_vanishing_memory(target, harm)


@attack
def vanished_under_an_answer_of_the_admin_queue(target: Target) -> None:
    """The buffer of the answer: it is lost, the next one comes."""

    def harm(guest: Intruder, lost: Ram) -> None:
        guest.driver.receive_all()
        lost.vanish()
        at = guest.driver.arq + guest.driver.next_to_clean * 32
        posted = guest.ram.read(at, 24)
        guest.ram.write(at, posted + struct.pack("<II", ELSEWHERE >> 32, ELSEWHERE & 0xFFFF_FFFF))
        guest.driver.send(Op.GET_STATS, struct.pack("<HHII", 1, 0, 0, 0))
        lost_answer = guest.driver.posted(guest.driver.next_to_clean)
        assert lost_answer.retval != 0
        slot = guest.driver.next_to_clean
        guest.driver._post(slot)
        guest.driver.next_to_clean = (slot + 1) % guest.driver.habit.arq_len
        guest.driver.receive_all()

    in_vanishing_memory(target, harm)


@attack
def vanished_altogether(target: Target) -> None:
    """All of the guest's memory, admin queues and rings; DEVICE_RESET and a new map cure it."""
    with target.intruder(lambda: Ram(shrinkable=True)) as guest:
        guest.negotiate()
        guest.start()
        size = guest.ram.size
        guest.ram.vanish()
        guest.client.write32(0, regs.QTX_TAIL1.at(0), 3)
        for register in (regs.ATQT1, regs.ARQT1):
            guest.client.write32(0, register.offset, 1)
        guest.client.dma_unmap(0, size)
        guest.ram.vanish(size)
        guest.client.dma_map(0, size, guest.ram.fd)
        guest.client.reset()
        guest.client.region_write(CONFIG, 4, b"\x06\x00")
        guest.negotiate()
        guest.start()
        guest.carry()


@attack
def vanished_under_a_frame_to_a_tap(target: Target) -> None:
    """The head is there, the rest is read by the kernel; with and without offload."""
    with target.intruder() as guest:
        lost = guest.map(ELSEWHERE, SIZE, shrinkable=True)
        guest.negotiate()
        for offload in (0, TCP_CHECKSUM):
            guest.start()
            lost.write(0x1000 - 128, tcp_frame(guest)[:128])
            lost.vanish(0x1000)
            slot = guest.slot
            guest.describe((ELSEWHERE + 0x1000 - 128, offload | EOP | RS | 1000 << 34))
            wait_for("the end of the frame", lambda at=slot: guest.is_done(at))
            wait_for("the refusal of ENABLE_QUEUES", lambda: restart(guest) == Status.ERR_PARAM)
            guest.client.dma_unmap(ELSEWHERE, SIZE)
            lost.vanish(SIZE)
            guest.client.dma_map(ELSEWHERE, SIZE, lost.fd)
            guest.reset_vf()
            guest.start()
            slot = guest.send()
            wait_for("the completion of a frame", lambda at=slot: guest.is_done(at))
            guest.reset_vf()
