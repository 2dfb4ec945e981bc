"""The tables of the protocol: sizes, offsets of fields, and numbers of the kernel's VFIO."""

import pytest

from emuiavf.errors import PeerError
from emuiavf.layout import Wire
from emuiavf.vfio_user import wire

EXAMPLES = [
    (wire.Header(0x50, 9, 0x20, 0x10, 0x16), "5000 0900 20000000 10000000 16000000"),
    (wire.Version(0, 1), "0000 0100"),
    (
        wire.DmaMap(0x20, 3, 0x1000, 0x2000, 0xA0000),
        "20000000 03000000 0010000000000000 0020000000000000 00000a0000000000",
    ),
    (wire.DmaUnmap(0x18, 2, 1, 2), "18000000 02000000 0100000000000000 0200000000000000"),
    (wire.DeviceInfo(16, 3, 9, 5), "10000000 03000000 09000000 05000000"),
    (
        wire.RegionInfo(0x50, 0xF, 1, 0x20, 0x10000, 0x4000),
        "50000000 0f000000 01000000 20000000 0000010000000000 0040000000000000",
    ),
    (wire.CapHeader(1, 2, 0x40), "0100 0200 40000000"),
    (wire.SparseMmap(1, 1, 0, 2, 0), "0100 0100 00000000 02000000 00000000"),
    (wire.SparseArea(0x2000, 0x1000), "0020000000000000 0010000000000000"),
    (wire.RegionIoFds(16, 0, 7, 0), "10000000 00000000 07000000 00000000"),
    (wire.IrqInfo(16, 1, 2, 65), "10000000 01000000 02000000 41000000"),
    (wire.SetIrqs(0x14, 0x24, 2, 1, 3), "14000000 24000000 02000000 01000000 03000000"),
    (wire.RegionAccess(0x2000, 7, 4), "0020000000000000 07000000 04000000"),
    (wire.DmaAccess(0x1000, 4), "0010000000000000 0400000000000000"),
]


@pytest.mark.parametrize(("message", "expected"), EXAMPLES)
def test_structure_has_its_bytes_and_reads_back(message: Wire, expected: str) -> None:
    data = message.encode()
    assert data == bytes.fromhex(expected)
    assert type(message).decode(b"\xff" * 3 + data, 3) == message


@pytest.mark.parametrize("message", [message for message, _ in EXAMPLES])
def test_structure_cut_short_is_refused(message: Wire) -> None:
    with pytest.raises(PeerError):
        type(message).decode(message.encode()[:-1])


def test_every_structure_has_an_example() -> None:
    structures = {value for value in vars(wire).values() if isinstance(value, type)}
    declared = {s for s in structures if issubclass(s, Wire) and s is not Wire}
    assert {type(message) for message, _ in EXAMPLES} == declared


def test_command_numbers_leave_out_the_removed_fourteen() -> None:
    assert [int(command) for command in wire.Command] == [*range(1, 14), 15, 16, 17, 18]


def test_largest_message_is_a_full_region_write() -> None:
    assert wire.MAX_MSG_SIZE == 1048608
