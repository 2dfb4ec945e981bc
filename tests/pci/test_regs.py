"""Register tables and the masked, byte-addressed storage behind them."""

import pytest

from emuiavf.errors import PeerError
from emuiavf.pci.regs import Register, RegisterFile, array, read_only, read_write, table

HALF = Register("HALF", 4, 4, reset=0x1122_3344, writable=0x0000_FF0F)


def make() -> RegisterFile:
    return RegisterFile(16, [read_write("RW", 0), HALF, read_only("RO", 8, 4, 0xDEAD_BEEF)])


def test_read_after_creation_gives_reset_values() -> None:
    assert make().read(0, 16).hex() == "00000000443322 11efbeadde00000000".replace(" ", "")


def test_write_changes_only_writable_bits() -> None:
    regs = make()
    regs.write(4, b"\xff\xff\xff\xff")
    assert regs.get(HALF) == 0x1122_FF4F


def test_write_that_straddles_registers_changes_each_by_its_own_mask() -> None:
    regs = make()
    regs.write(3, b"\xa5\xff\x00\x00\x00\x00\x00")
    assert regs.read(0, 12).hex() == "000000a54f002211efbeadde"


def test_write_where_no_register_is_changes_nothing() -> None:
    regs = make()
    regs.write(12, b"\xff\xff\xff\xff")
    assert regs.read(12, 4) == bytes(4)


def test_set_ignores_the_mask() -> None:
    regs = make()
    regs.set(HALF, 0xFFFF_0000)
    assert regs.read(4, 4) == b"\x00\x00\xff\xff"


def test_reset_restores_reset_values() -> None:
    regs = make()
    before = regs.read(0, 16)
    regs.write(0, b"\xff" * 16)
    regs.reset()
    assert regs.read(0, 16) == before


@pytest.mark.parametrize(("offset", "count"), [(16, 1), (15, 2), (-1, 1), (0, 17), (1 << 64, 1)])
def test_access_outside_is_refused(offset: int, count: int) -> None:
    with pytest.raises(PeerError):
        make().read(offset, count)
    with pytest.raises(PeerError):
        make().write(offset, bytes(count))


def test_array_places_registers_by_stride() -> None:
    made = list(array("Q", 0x100, 3, stride=0x10, writable=1))
    assert [(r.name, r.offset, r.writable) for r in made] == [
        ("Q0", 0x100, 1),
        ("Q1", 0x110, 1),
        ("Q2", 0x120, 1),
    ]


@pytest.mark.parametrize(
    "registers",
    [
        [read_only("A", 0), read_only("B", 2)],
        [read_only("A", 0), read_only("A", 4)],
        [Register("A", 0, 1, reset=0x100)],
        [Register("A", 0, 1, writable=0x100)],
    ],
    ids=["overlap", "twice", "reset-too-wide", "mask-too-wide"],
)
@pytest.mark.vfio_user("12.15.1")
def test_table_refuses_contradictions(registers: list[Register]) -> None:
    with pytest.raises(AssertionError):
        table(registers)
