"""Eventfds by vector: ownership, masks by the client and by the MSI-X table, pending bits."""

import os
import struct
from collections.abc import Mapping

import pytest

from emuiavf.iavf.vectors import MsixVectors
from emuiavf.pci.msix import MsixLayout

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


class Rig:
    def __init__(self) -> None:
        self.pushed: dict[int, int | None] = {}
        self.vectors = MsixVectors(MsixLayout(17, 3, 0, 0x2000), self._push)

    def _push(self, fds: Mapping[int, int | None]) -> None:
        self.pushed.update(fds)

    def fire(self, vector: int) -> None:
        """What a worker does."""
        fd = self.pushed[vector]
        assert fd is not None
        os.eventfd_write(fd, 1)

    def pba(self) -> int:
        return int.from_bytes(self.vectors.read(0x2000, 8), "little")


def event() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_replaced_eventfd_is_closed_and_the_new_one_used(rig: Rig) -> None:
    first, second = event(), event()
    rig.vectors.replace(2, [first])
    rig.vectors.replace(2, [second])
    assert rig.pushed == {2: second}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(first)
    rig.vectors.drop()
    assert rig.pushed[2] is None


@pytest.mark.vfio_user("12.9.2", "12.9.3")
def test_trigger_signals_and_skips_vectors_without_eventfd(rig: Rig) -> None:
    fd = event()
    rig.vectors.replace(1, [fd])
    rig.vectors.trigger([0, 1, 1])
    assert count(fd) == 2
    rig.vectors.drop()


def test_full_eventfd_does_not_block(rig: Rig) -> None:
    fd = event()
    os.eventfd_write(fd, 0xFFFF_FFFF_FFFF_FFFE)
    rig.vectors.replace(0, [fd])
    rig.vectors.trigger([0])
    # One more than a writer can make it, where the kernel adds for us: see test_eventfd.py.
    assert count(fd) >= 0xFFFF_FFFF_FFFF_FFFE
    rig.vectors.drop()


def test_event_of_a_masked_vector_is_sent_once_at_the_unmask(rig: Rig) -> None:
    fd = event()
    rig.vectors.replace(0, [fd])
    rig.vectors.mask_by_client([0], True)
    rig.fire(0)
    rig.fire(0)
    assert count(fd) == 0
    assert rig.pba() == 1
    rig.vectors.mask_by_client([0], False)
    assert rig.pushed[0] == fd
    assert count(fd) == 1
    assert rig.pba() == 0
    rig.vectors.drop()


def test_eventfd_replaced_under_a_mask_gets_the_event(rig: Rig) -> None:
    first, second = event(), event()
    rig.vectors.replace(0, [first])
    rig.vectors.mask_by_client([0], True)
    rig.fire(0)
    rig.vectors.replace(0, [second])
    rig.vectors.mask_by_client([0], False)
    assert count(second) == 1
    rig.vectors.drop()


def test_function_mask_holds_while_msix_is_enabled(rig: Rig) -> None:
    fd = event()
    rig.vectors.replace(3, [fd])
    rig.vectors.set_control(True, True)
    rig.fire(3)
    assert count(fd) == 0
    rig.vectors.set_control(True, False)
    assert count(fd) == 1
    rig.vectors.drop()


def test_table_mask_counts_once_the_guest_has_written_the_table(rig: Rig) -> None:
    fd = event()
    rig.vectors.replace(1, [fd])
    rig.vectors.set_control(True, False)
    assert rig.pushed[1] == fd
    rig.vectors.write(0x10, struct.pack("<QII", 0xFEE0_0000, 0x41, 1))
    rig.fire(1)
    assert count(fd) == 0
    rig.vectors.write(0x1C, struct.pack("<I", 0))
    assert count(fd) == 1
    rig.vectors.drop()


def test_eventfd_alone_is_enough_without_msix_enabled(rig: Rig) -> None:
    """As the kernel's VFIO: SET_IRQS enables MSI-X by itself."""
    fd = event()
    rig.vectors.replace(0, [fd])
    rig.fire(0)
    assert count(fd) == 1
    rig.vectors.drop()


def test_drop_forgets_eventfds_and_the_clients_masks(rig: Rig) -> None:
    rig.vectors.replace(0, [event(), event()])
    rig.vectors.mask_by_client([0, 1], True)
    rig.vectors.drop()
    assert rig.pushed == {0: None, 1: None}
    fd = event()
    rig.vectors.replace(0, [fd])
    assert rig.pushed[0] == fd
    rig.vectors.drop()
