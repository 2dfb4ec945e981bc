"""The register table against the offsets, reset values and widths of the specification."""

import pytest

from emuiavf.iavf import regs
from emuiavf.pci.regs import RegisterFile

# name, offset, reset value, value read back after writing ones
SPECIFIED = [
    ("QTX_TAIL1_0", 0x0000, 0, 0xFFFFFFFF),
    ("QTX_TAIL1_255", 0x03FC, 0, 0xFFFFFFFF),
    ("QRX_TAIL1_0", 0x2000, 0, 0xFFFFFFFF),
    ("QRX_TAIL1_255", 0x23FC, 0, 0xFFFFFFFF),
    ("VFINT_ITRN1_0", 0x2800, 0, 0xFFFFFFFF),
    ("VFINT_ITRN1_47", 0x28BC, 0, 0xFFFFFFFF),
    ("VFINT_DYN_CTLN1_0", 0x3800, 0, 0xFFFFFFFF),
    ("VFINT_DYN_CTLN1_63", 0x38FC, 0, 0xFFFFFFFF),
    ("VFINT_ICR01", 0x4800, 0, 0),
    ("VFINT_ITR01_0", 0x4C00, 0, 0xFFF),
    ("VFINT_ITR01_2", 0x4C08, 0, 0xFFF),
    ("VFINT_ICR0_ENA1", 0x5000, 0, 0xFFFFFFFF),
    ("VFINT_STAT_CTL01", 0x5400, 0, 0xFFFFFFFF),
    ("VFINT_DYN_CTL01", 0x5C00, 0, 0xFFFFFFFF),
    ("ARQBAH1", 0x6000, 0, 0xFFFFFFFF),
    ("ARQBAL1", 0x6C00, 0, 0xFFFFFFFF),
    ("ATQBAH1", 0x7800, 0, 0xFFFFFFFF),
    ("ATQBAL1", 0x7C00, 0, 0xFFFFFFFF),
    ("ARQLEN1", 0x8000, 0, 0xFFFFFFFF),
    ("ATQLEN1", 0x6800, 0, 0xFFFFFFFF),
    ("ARQH1", 0x7400, 0, 0xFFFFFFFF),
    ("ARQT1", 0x7000, 0, 0xFFFFFFFF),
    ("ATQH1", 0x6400, 0, 0xFFFFFFFF),
    ("ATQT1", 0x8400, 0, 0xFFFFFFFF),
    ("VFGEN_RSTAT", 0x8800, 0, 3),
    ("VFQF_HENA0", 0xC400, 0, 0xFFFFFFFF),
    ("VFQF_HENA1", 0xC404, 0, 0xFFFFFFFF),
    ("VFQF_HKEY0", 0xCC00, 0, 0xFFFFFFFF),
    ("VFQF_HKEY12", 0xCC30, 0, 0xFFFFFFFF),
    ("VFQF_HLUT0", 0xD000, 0, 0xFFFFFFFF),
    ("VFQF_HLUT15", 0xD03C, 0, 0xFFFFFFFF),
]


@pytest.mark.parametrize(("name", "offset", "reset", "ones"), SPECIFIED)
@pytest.mark.trap(6)
def test_register_stands_and_behaves_as_specified(
    name: str, offset: int, reset: int, ones: int
) -> None:
    register = regs.REGISTERS[name]
    file = RegisterFile(regs.BAR0_SIZE, regs.REGISTERS.values())

    assert register.offset == offset
    assert file.get(register) == reset
    file.write(offset, b"\xff\xff\xff\xff")
    assert file.get(register) == ones


def test_table_has_no_register_beyond_the_specified_ones() -> None:
    count = 256 + 256 + 48 + 64 + 1 + 3 + 3 + 10 + 1 + 2 + 13 + 16
    assert len(regs.REGISTERS) == count


def test_itrn1_uses_the_layout_of_the_drivers() -> None:
    assert regs.itrn1(0, 1) == 0x2800
    assert regs.itrn1(1, 2) == 0x2844
    assert regs.itrn1(2, 16) == 0x28BC


def test_doorbell_pages_hold_nothing_that_needs_a_trap() -> None:
    """Exactly the doorbell banks lie in pages that a client may map."""
    offsets = [register.offset for register in regs.REGISTERS.values()]
    mappable = [at for at in offsets if at & ~0xFFF in regs.DOORBELL_PAGES]
    doorbells = [at for at in offsets if any(at in bank for bank in regs.DOORBELL_BANKS)]
    assert mappable == doorbells
    assert len(doorbells) == 256 + 256 + 48 + 64


def test_descriptor_fields_stand_where_drivers_put_them() -> None:
    raw = bytes.fromhex("0134010810000e001a000000fbffffff0300000004000000") + (
        bytes.fromhex("0100000000f0ffff")
    )
    descriptor = regs.AqDescriptor.decode(raw)
    assert descriptor == regs.AqDescriptor(0x3401, 0x0801, 16, 14, 0x1A, -5, 3, 4, 1, 0xFFFFF000)
    assert descriptor.address == 0x1_FFFF_F000
    assert descriptor.encode() == raw
