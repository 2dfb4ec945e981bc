"""BAR0 by offsets and widths, and the doorbell memory behind it."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from emuiavf.emudev.info import MmapArea
from emuiavf.iavf import regs
from emuiavf.iavf.bar0 import Bar0
from emuiavf.iavf.doorbells import Doorbells


class Rig:
    def __init__(self) -> None:
        self.doorbells = Doorbells("test")
        self.bar0 = Bar0(self.doorbells)
        self.events: list[tuple[object, ...]] = []
        self.bar0.on_dyn_ctln = lambda vector, value: self.events.append((vector, value))
        self.bar0.on_doorbell = lambda: self.events.append(("doorbell",))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.doorbells.close()


def test_doorbell_memory_cannot_change_its_size(rig: Rig) -> None:
    assert os.fstat(rig.doorbells.fd).st_size == 0x4000
    with pytest.raises(PermissionError):
        os.ftruncate(rig.doorbells.fd, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(rig.doorbells.fd, 0x8000)
    with pytest.raises(PermissionError):
        fcntl.fcntl(rig.doorbells.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_announced_areas_leave_out_what_needs_a_trap() -> None:
    assert (
        MmapArea(0x0000, 0x1000),
        MmapArea(0x2000, 0x1000),
        MmapArea(0x3000, 0x1000),
    ) == Doorbells.AREAS


@pytest.mark.parametrize("offset", [0x0000, 0x0004, 0x03FC, 0x2000, 0x23FC, 0x2800, 0x28BC])
def test_doorbell_by_message_lands_in_the_shared_memory(rig: Rig, offset: int) -> None:
    rig.bar0.write(offset, b"\x11\x22\x00\x00")
    assert bytes(rig.doorbells.memory[offset : offset + 4]) == b"\x11\x22\x00\x00"
    assert rig.bar0.read(offset, 4) == b"\x11\x22\x00\x00"
    assert rig.events == [("doorbell",)]


def test_mapped_write_is_seen_by_a_read_message(rig: Rig) -> None:
    rig.doorbells.store(0x2004, 511)
    assert rig.bar0.read(0x2000, 8) == b"\0\0\0\0\xff\x01\0\0"


@pytest.mark.parametrize(("offset", "vector"), [(0x3800, 1), (0x3804, 2), (0x38FC, 64)])
def test_dyn_ctln_goes_to_the_data_path_and_is_not_stored(
    rig: Rig, offset: int, vector: int
) -> None:
    rig.bar0.write(offset, b"\x01\x00\x00\x40")
    assert rig.events == [(vector, 0x4000_0001)]
    assert rig.bar0.read(offset, 4) == bytes(4)


def test_narrow_write_changes_its_bytes_only(rig: Rig) -> None:
    rig.bar0.write(0x0010, b"\x78\x56\x34\x12")
    rig.bar0.write(0x0011, b"\xff")
    assert rig.bar0.read(0x0010, 4) == b"\x78\xff\x34\x12"
    rig.bar0.write(0x5002, b"\xaa\xbb")
    assert rig.bar0.read(0x5000, 4) == b"\x00\x00\xaa\xbb"


@pytest.mark.parametrize(
    "offset", [0x0400, 0x1000, 0x2400, 0x3900, 0x4000, 0x9000, 0xF000, 0x1FFFC]
)
@pytest.mark.trap(36)
def test_offset_without_register_reads_zero_and_ignores_writes(rig: Rig, offset: int) -> None:
    rig.bar0.write(offset, b"\xff\xff\xff\xff")
    assert rig.bar0.read(offset, 4) == bytes(4)
    assert rig.events == []


def test_icr01_is_cleared_by_reading_it(rig: Rig) -> None:
    rig.bar0.file.set(regs.VFINT_ICR01, 0x4000_0000)
    assert rig.bar0.read(0x47F0, 0) == b""
    assert rig.bar0.read(0x4800, 4) == b"\x00\x00\x00\x40"
    assert rig.bar0.read(0x4800, 4) == bytes(4)


def test_access_to_all_of_the_bar_is_served(rig: Rig) -> None:
    hooks: list[int] = []
    rig.bar0.on_write[0x8400] = lambda: hooks.append(0x8400)
    rig.bar0.write(0, b"\xff" * regs.BAR0_SIZE)
    assert len(rig.bar0.read(0, regs.BAR0_SIZE)) == regs.BAR0_SIZE
    assert hooks == [0x8400]
    assert rig.events.count(("doorbell",)) == 256 + 256 + 48
    assert (64, 0xFFFF_FFFF) in rig.events


@pytest.mark.parametrize("register", regs.SINGLES, ids=lambda r: r.name)
def test_register_reads_its_reset_value_at_first(rig: Rig, register: regs.Register) -> None:
    """Trap 36: no register reads all ones."""
    value = int.from_bytes(rig.bar0.read(register.offset, 4), "little")
    assert value == register.reset != 0xFFFF_FFFF
