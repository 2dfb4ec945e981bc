"""Interrupts: what is no eventfd, what is full, vectors that are not there, storms of all of it."""

import errno
import os
import select
import socket
import struct

from emuiavf.iavf import regs
from emuiavf.vfio_user.wire import Command
from tests.hostile.attacks import Target, attack
from tests.hostile.attacks.transport import errno_of
from tests.hostile.backend import wait_for
from tests.hostile.intruder import Intruder, Ram

MSIX = 2
EVENTFD_TRIGGER, NONE_TRIGGER, BOOL_TRIGGER = 0x24, 0x21, 0x22
NONE_MASK, NONE_UNMASK = 0x09, 0x11
FULL = (1 << 64) - 2  # the most that a write makes; what does not write may add one more


def set_irqs(
    guest: Intruder, flags: int, index: int, start: int, count: int, fds: tuple[int, ...] = ()
) -> int:
    """DEVICE_SET_IRQS; its errno."""
    payload = struct.pack("<IIIII", 20, flags, index, start, count)
    return errno_of(guest.client, Command.DEVICE_SET_IRQS, payload, fds)


def interrupted(guest: Intruder) -> None:
    """Queue pair 0 on vector 1, which is armed."""
    guest.negotiate()
    assert guest.status(7, struct.pack("<HHHHHHH", 1, 1, 1, 1, 1, 3, 3)) == 0
    guest.start()
    guest.write32(regs.VFINT_DYN_CTLN1.at(0), 1)


@attack
def what_is_no_eventfd(target: Target) -> None:
    reader, writer = os.pipe()
    ends = socket.socketpair()
    ram = Ram(4096)
    files = [reader, writer, ram.fd, *(end.fileno() for end in ends), os.open("/", os.O_RDONLY)]
    with target.intruder() as guest:
        good = guest.eventfds(1)[0]
        for fd in files:
            assert set_irqs(guest, EVENTFD_TRIGGER, MSIX, 0, 1, (fd,)) == errno.EINVAL
            assert set_irqs(guest, EVENTFD_TRIGGER, MSIX, 0, 2, (good, fd)) == errno.EINVAL
        interrupted(guest)
        guest.carry()
    os.close(reader)
    os.close(writer)
    os.close(files[-1])
    for end in ends:
        end.close()
    ram.close()


@attack
def eventfds_that_are_full_and_block(target: Target) -> None:
    """A full counter, passed in blocking mode: nobody waits for it, and later events are heard."""
    with target.intruder() as guest:
        full = os.eventfd(0)
        guest.stack.callback(os.close, full)
        os.eventfd_write(full, FULL)
        for vector in range(3):
            assert set_irqs(guest, EVENTFD_TRIGGER, MSIX, vector, 1, (full,)) == 0
        interrupted(guest)
        for _ in range(20):
            guest.carry()
            guest.write32(regs.VFINT_DYN_CTLN1.at(0), 1 | 4)
            assert set_irqs(guest, NONE_TRIGGER, MSIX, 0, 3) == 0
        assert os.eventfd_read(full) >= FULL
        guest.write32(regs.VFINT_DYN_CTLN1.at(0), 1)
        guest.carry()
        wait_for("an interrupt", lambda: os.eventfd_read(full))


@attack
def eventfds_made_blocking_again(target: Target) -> None:
    """The mode belongs to the open file, which the client still has."""
    with target.intruder() as guest:
        full = guest.eventfds(1)[0]
        for vector in range(3):
            assert set_irqs(guest, EVENTFD_TRIGGER, MSIX, vector, 1, (full,)) == 0
        interrupted(guest)
        if select.select([full], [], [], 0)[0]:
            os.eventfd_read(full)
        os.eventfd_write(full, FULL)
        os.set_blocking(full, True)
        assert set_irqs(guest, NONE_TRIGGER, MSIX, 0, 3) == 0
        for _ in range(20):
            guest.write32(regs.VFINT_DYN_CTLN1.at(0), 1 | 4)
            guest.carry()
        assert os.eventfd_read(full) >= FULL
        guest.cure()


@attack
def vectors_out_of_range(target: Target) -> None:
    with target.intruder() as guest:
        fd = guest.eventfds(1)[0]
        count = guest.client.irq_info(MSIX).count
        for start, number in (
            (count, 1),
            (count - 1, 2),
            (0, count + 1),
            (0xFFFF_FFFF, 1),
            (1, 0xFFFF_FFFF),
            (0x8000_0000, 0x8000_0000),
        ):
            for flags in (NONE_TRIGGER, EVENTFD_TRIGGER, NONE_MASK, NONE_UNMASK):
                assert set_irqs(guest, flags, MSIX, start, number) == errno.EINVAL
            assert set_irqs(guest, EVENTFD_TRIGGER, MSIX, start, number, (fd,)) == errno.EINVAL
        for index in (0, 1, 4, 5, 0xFFFF_FFFF):
            assert set_irqs(guest, NONE_TRIGGER, index, 0, 1) == errno.EINVAL
        for flags in (0, 0x3F, 0x07, 0x38, 0x25, 0x26, 0x0C | 0x20, 1 << 31 | 0x21):
            assert set_irqs(guest, flags, MSIX, 0, 1) == errno.EINVAL, hex(flags)
        # Registers of vectors that are not there.
        for vector in range(64):
            guest.client.write32(0, regs.VFINT_DYN_CTLN1.at(vector), 0xFFFF_FFFF, posted=True)
        for at in range(0x2800, 0x2900, 4):
            guest.client.write32(0, at, 0xFFFF_FFFF, posted=True)
        interrupted(guest)
        guest.carry()


@attack
def a_storm_of_interrupts_set_up_and_down(target: Target) -> None:
    """Eventfds replaced, masked and triggered under traffic: none is lost, none is leaked."""
    with target.intruder() as guest:
        fds = guest.eventfds(16)
        interrupted(guest)
        for turn in range(150):
            assert set_irqs(guest, EVENTFD_TRIGGER, MSIX, 0, 16, tuple(fds)) == 0
            assert set_irqs(guest, NONE_MASK, MSIX, 0, 17) == 0
            guest.send()
            assert set_irqs(guest, NONE_TRIGGER, MSIX, 0, 17) == 0
            assert set_irqs(guest, NONE_UNMASK, MSIX, turn % 17, 1) == 0
            if turn % 10 == 9:
                guest.reset_vf()
                interrupted(guest)
            if turn % 3 == 0:
                assert set_irqs(guest, NONE_TRIGGER, MSIX, 0, 0) == 0
        assert set_irqs(guest, NONE_TRIGGER, MSIX, 0, 0) == 0
        guest.cure()


@attack
def the_table_of_vectors_scribbled_over(target: Target) -> None:
    """BAR3, MSI-X control and configuration space with chance for a writer."""
    chance = target.random
    with target.intruder() as guest:
        guest.client.set_eventfds(guest.eventfds(17))
        interrupted(guest)
        for _ in range(1500):
            size = chance.choice((1, 2, 4, 8, 64))
            region, limit = chance.choice(((3, 0x4000), (7, 0x1000)))
            at = chance.randrange(0, limit - size)
            guest.client.region_write(region, at, chance.randbytes(size), posted=True)
            guest.client.region_read(region, at, size)
        guest.client.reset()
        guest.client.region_write(7, 4, b"\x06\x00")
        interrupted(guest)
        guest.carry()
