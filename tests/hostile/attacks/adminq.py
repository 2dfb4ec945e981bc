"""The admin queues themselves: descriptors, buffers, ring registers."""

import struct

from emuiavf.emudev.info import DmaProt
from emuiavf.iavf import regs
from emuiavf.iavf.regs import AqDescriptor, AqFlag, AqRet
from emuiavf.virtchnl.ops import Op
from tests.fakes.vf_driver import ENABLE
from tests.hostile.attacks import Target, attack
from tests.hostile.intruder import ELSEWHERE, NOWHERE, RAM_SIZE, Intruder

TOP = (1 << 64) - 1
SEND = 0x0801
INDEXES = ((0, 0x3FF), (0x3FF, 0), (0xFFFF_FFFF, 1), (0, 0xFFFF_FFFF), (0, 31))


def descriptor(opcode: int, flags: int, datalen: int, address: int) -> AqDescriptor:
    low, high = address & 0xFFFF_FFFF, address >> 32
    return AqDescriptor(flags, opcode, datalen, 0, int(Op.VERSION), 0, 0, 0, high, low)


def strike(guest: Intruder, bad: AqDescriptor) -> int:
    """Offer one descriptor; its retval."""
    index = guest.driver.next_to_use
    guest.driver.put_atq(index, bad)
    guest.driver.next_to_use = (index + 1) % guest.driver.habit.atq_len
    guest.driver.ring()
    guest.settle()
    done = guest.driver.completed(index)
    assert done.flags & (AqFlag.DD | AqFlag.CMP) == AqFlag.DD | AqFlag.CMP
    guest.driver.receive_all()
    return done.retval


@attack
def commands_of_the_admin_queue_that_are_wrong(target: Target) -> None:
    """Each is completed with the admin queue's own error; the next request is served."""
    data = AqFlag.BUF | AqFlag.RD
    with target.intruder() as guest:
        read_only = guest.map(ELSEWHERE, 0x1000, prot=DmaProt.READ)
        write_only = guest.map(ELSEWHERE + 0x10000, 0x1000, prot=DmaProt.WRITE)
        guest.map(ELSEWHERE + 0x20000, 0x1000, prot=DmaProt(0))
        guest.negotiate()
        for opcode in (0, 1, 2, 0x0800, 0x0802, 0xFFFF):
            assert strike(guest, descriptor(opcode, data, 8, 0x1000)) == AqRet.ENOSYS
        for datalen in (4097, 8192, 0xFFFF):
            assert strike(guest, descriptor(SEND, data, datalen, 0x1000)) == AqRet.EFBIG
        for address in (
            NOWHERE,
            RAM_SIZE - 4,
            RAM_SIZE,
            TOP,
            TOP - 7,
            1 << 63,
            ELSEWHERE + 0x1000 - 4,
            ELSEWHERE + 0x10000,
            ELSEWHERE + 0x20000,
        ):
            assert strike(guest, descriptor(SEND, data, 8, address)) == AqRet.BAD_ADDR, hex(address)
        assert strike(guest, descriptor(SEND, data, 8, ELSEWHERE)) == AqRet.OK
        assert strike(guest, descriptor(SEND, 0xFFFF, 0, TOP)) == AqRet.OK
        guest.start()
        guest.carry()
        assert read_only.size == write_only.size


@attack
def answer_buffers_that_cannot_be_written(target: Target) -> None:
    """ARQ buffers that are short, missing, read-only or not there; the message is lost, no more."""
    with target.intruder() as guest:
        guest.map(ELSEWHERE, 0x1000, prot=DmaProt.READ)
        for flags, datalen, address in (
            (AqFlag.BUF, 0, 0x1000),
            (AqFlag.BUF, 7, 0x1000),
            (0, 4096, 0x1000),
            (AqFlag.BUF, 4096, NOWHERE),
            (AqFlag.BUF, 4096, TOP),
            (AqFlag.BUF, 4096, ELSEWHERE),
            (AqFlag.BUF, 4096, RAM_SIZE - 4),
        ):
            guest.driver.open()
            low, high = address & 0xFFFF_FFFF, address >> 32
            bad = AqDescriptor(flags, 0, datalen, 0, 0, 0, 0, 0, high, low)
            guest.ram.write(guest.driver.arq, bad.encode() * 32)
            guest.driver.send(Op.VERSION, struct.pack("<II", 1, 1))
            guest.settle()
            assert guest.driver.posted(0).retval in (AqRet.EFBIG, AqRet.BAD_ADDR)
        guest.negotiate()
        guest.start()
        guest.carry()


@attack
def admin_rings_that_cannot_be(target: Target) -> None:
    """Base, length, head and tail at every edge; nothing moves, and a proper set-up works."""
    with target.intruder() as guest:
        guest.map(ELSEWHERE, 0x1000, prot=DmaProt.READ)
        for base in (NOWHERE, ELSEWHERE, RAM_SIZE - 32, TOP - 31, 0, 0x1001, TOP):
            for length in (0, 1, 32, 0x3FF, 0x7FFF_FFFF):
                for head, tail in INDEXES:
                    lay(guest, base, length, head, tail)
        guest.cure_by_reset()


def lay(guest: Intruder, base: int, length: int, head: int, tail: int) -> None:
    """All ten registers, posted: the answer of the last read follows them."""
    for registers in (
        (regs.ATQBAL1, regs.ATQBAH1, regs.ATQLEN1, regs.ATQH1, regs.ATQT1),
        (regs.ARQBAL1, regs.ARQBAH1, regs.ARQLEN1, regs.ARQH1, regs.ARQT1),
    ):
        values = (base & 0xFFFF_FFFF, base >> 32, length & 0x3FF | ENABLE, head, tail)
        for register, value in zip(registers, values, strict=True):
            guest.client.write32(0, register.offset, value, posted=True)
    assert guest.read32(regs.ATQBAL1.offset) == base & 0xFFFF_FFFF


@attack
def a_full_queue_of_everything(target: Target) -> None:
    """A ring of 1023 requests at once, and one that is never emptied: others are served between."""
    with target.intruder() as guest:
        for opcode in (Op.RESET_VF, Op.GET_STATS, Op.VERSION, 9999):
            ring, length = 0x20_0000, 1023
            single = AqDescriptor(AqFlag.SI, SEND, 0, 0, int(opcode), 0, 0, 0, 0, 0).encode()
            guest.ram.write(ring, single * length)
            for register, value in (
                (regs.ATQH1, 0),
                (regs.ATQT1, 0),
                (regs.ATQBAL1, ring),
                (regs.ATQBAH1, 0),
                (regs.ATQLEN1, length | ENABLE),
                (regs.ATQT1, length - 1),
            ):
                guest.write32(register.offset, value)
            for _ in range(50):
                guest.write32(regs.ATQT1.offset, length - 1)
        guest.cure_by_reset()


@attack
def answers_that_are_never_read(target: Target) -> None:
    """Requests without an ARQ buffer posted: a bounded backlog, then they are dropped."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.write32(regs.ARQT1.offset, guest.read32(regs.ARQH1.offset))
        for _ in range(2000):
            guest.driver.send(Op.GET_STATS, struct.pack("<HHII", 1, 0, 0, 0))
        guest.cure()
