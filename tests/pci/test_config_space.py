"""Configuration space: what clients read, and what their writes do."""

import struct
from typing import Any

import pytest

from emuiavf.errors import PeerError
from emuiavf.pci.config_space import Bar, Command, ConfigSpace, Identity
from emuiavf.pci.msix import MsixLayout

VF = Identity(0x8086, 0x1889, 0x020000, 2, 0x8086, 0x1889)
BARS = {0: Bar(128 << 10), 3: Bar(16 << 10)}
MSIX = MsixLayout(num_vectors=17, bar=3)


class Recorder:
    """A function whose three events are kept in order."""

    def __init__(self, msix: MsixLayout | None = MSIX) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.space = ConfigSpace(
            VF,
            BARS,
            msix,
            on_command=lambda old, new: self.events.append(("command", int(old), int(new))),
            on_flr=lambda: self.events.append(("flr",)),
            on_msix=lambda enabled, mask: self.events.append(("msix", enabled, mask)),
        )


@pytest.fixture
def vf() -> Recorder:
    return Recorder()


def read(vf: Recorder, offset: int, size: int) -> int:
    return int.from_bytes(vf.space.read(offset, size), "little")


def write(vf: Recorder, offset: int, size: int, value: int) -> None:
    vf.space.write(offset, value.to_bytes(size, "little"))


@pytest.mark.vfio_user("12.5.5")
def test_whole_space_reads_in_one_access(vf: Recorder) -> None:
    assert len(vf.space.read(0, 4096)) == 4096


@pytest.mark.vfio_user("11.9", "12.20.3")
def test_header_after_creation(vf: Recorder) -> None:
    expected = struct.pack(
        "<HHHHB3sBBBB6IIHHIB7xBBBB",
        0x8086, 0x1889, 0, 0x0010, 2, b"\x00\x00\x02", 0, 0, 0, 0,
        0x0C, 0, 0, 0x0C, 0, 0, 0, 0x8086, 0x1889, 0, 0x70, 0, 0, 0, 0,
    )  # fmt: skip
    assert vf.space.read(0, 64) == expected


@pytest.mark.vfio_user("12.15.2", "12.15.3")
def test_msix_capability_after_creation(vf: Recorder) -> None:
    assert vf.space.read(0x70, 12) == bytes.fromhex("11a0 1000 03000000 03200000".replace(" ", ""))


@pytest.mark.vfio_user("11.4", "12.15.2")
def test_express_capability_after_creation(vf: Recorder) -> None:
    assert vf.space.read(0xA0, 12) == bytes.fromhex("10000200 20800010 10280000".replace(" ", ""))


@pytest.mark.vfio_user("12.16.1", "12.16.2")
def test_extended_space_is_empty(vf: Recorder) -> None:
    assert vf.space.read(0x100, 0xF00) == bytes(0xF00)


@pytest.mark.vfio_user("12.15.3")
def test_without_msix_the_chain_starts_at_the_express_capability() -> None:
    plain = Recorder(msix=None)
    write(plain, 0x72, 2, 0xFFFF)
    assert (read(plain, 0x34, 1), read(plain, 0x70, 4), plain.events) == (0xA0, 0, [])


@pytest.mark.parametrize(
    ("offset", "sized"),
    [
        (0x10, 0xFFFE_000C),
        (0x14, 0xFFFF_FFFF),
        (0x18, 0),
        (0x1C, 0xFFFF_C00C),
        (0x20, 0xFFFF_FFFF),
        (0x24, 0),
        (0x30, 0),
    ],
)
@pytest.mark.vfio_user("11.10")
def test_bar_sizing(vf: Recorder, offset: int, sized: int) -> None:
    write(vf, offset, 4, 0xFFFF_FFFF)
    assert read(vf, offset, 4) == sized


@pytest.mark.vfio_user("11.6")
def test_bar_address_keeps_its_type_bits_and_drops_bits_below_its_size(vf: Recorder) -> None:
    write(vf, 0x10, 8, 0x0000_0012_3455_5550)
    assert read(vf, 0x10, 8) == 0x0000_0012_3454_000C


@pytest.mark.vfio_user("11.10", "12.5.6")
def test_bar_of_32_bits_takes_one_register() -> None:
    space = ConfigSpace(VF, {2: Bar(4096, is64=False, prefetch=False)})
    space.write(0x14, b"\xff" * 12)
    assert space.read(0x14, 12) == bytes.fromhex("00000000 00f0ffff 00000000".replace(" ", ""))


@pytest.mark.parametrize("gigabytes", [4, 8, 16])
@pytest.mark.vfio_user("12.5.7")
def test_bar_of_gigabytes_is_sized_by_both_halves(gigabytes: int) -> None:
    space = ConfigSpace(VF, {2: Bar(gigabytes << 30)})
    for offset in (0x18, 0x1C):
        space.write(offset, b"\xff" * 4)
    low, high = (int.from_bytes(space.read(offset, 4), "little") for offset in (0x18, 0x1C))
    assert (low, high) == (0xC, 0x1_0000_0000 - gigabytes // 4)


@pytest.mark.parametrize("size", [0, 8, 24, 4097])
@pytest.mark.vfio_user("11.10", "12.17.1")
def test_bar_of_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(AssertionError):
        Bar(size)


@pytest.mark.parametrize(
    "bars",
    [{5: Bar(4096)}, {0: Bar(4096), 1: Bar(4096, is64=False)}, {6: Bar(4096, is64=False)}],
    ids=["none behind it", "one taken", "no such BAR"],
)
@pytest.mark.vfio_user("12.17.2")
def test_bar_of_64_bits_needs_the_register_behind_it(bars: dict[int, Bar]) -> None:
    with pytest.raises(AssertionError):
        ConfigSpace(VF, bars)


@pytest.mark.vfio_user("11.6")
def test_rom_probe_of_qemu_reads_no_rom(vf: Recorder) -> None:
    write(vf, 0x30, 4, 0xFFFF_F800)
    assert read(vf, 0x30, 4) == 0


@pytest.mark.vfio_user("11.6")
def test_command_stores_its_bits_and_reports_the_change(vf: Recorder) -> None:
    write(vf, 4, 2, 0xFFFF)
    assert read(vf, 4, 2) == 0x0547
    assert vf.events == [("command", 0, 0x0547)]


@pytest.mark.parametrize("bit", [0, 1, 2, 6, 8, 10])
def test_each_command_bit_reads_back(vf: Recorder, bit: int) -> None:
    write(vf, 4, 2, 1 << bit)
    assert read(vf, 4, 2) == 1 << bit


def test_command_unchanged_is_no_event(vf: Recorder) -> None:
    write(vf, 4, 2, 6)
    vf.events.clear()
    write(vf, 4, 4, 0xFFFF_0006)
    assert vf.events == []


def test_bus_master_follows_command(vf: Recorder) -> None:
    before = vf.space.bus_master
    write(vf, 4, 1, Command.BUS_MASTER)
    assert (before, vf.space.bus_master) == (False, True)


@pytest.mark.parametrize("offset", [0x00, 0x06, 0x08, 0x0E, 0x2C, 0x34, 0x3D, 0x70, 0xA0, 0x200])
@pytest.mark.vfio_user("11.6", "11.7", "12.15.4", "12.15.6", "12.16.2")
def test_write_to_read_only_bytes_is_accepted_and_ignored(vf: Recorder, offset: int) -> None:
    before = vf.space.read(0, 4096)
    write(vf, offset, 2, 0xFFFF)
    assert vf.space.read(0, 4096) == before


@pytest.mark.parametrize("offset", [0x0C, 0x3C])
@pytest.mark.vfio_user("11.6")
def test_scratch_bytes_of_the_header_are_stored(vf: Recorder, offset: int) -> None:
    write(vf, offset, 1, 0xA5)
    assert read(vf, offset, 1) == 0xA5


@pytest.mark.vfio_user("11.7", "12.15.9")
def test_msix_all_ones_changes_only_enable_and_function_mask(vf: Recorder) -> None:
    vf.space.write(0x70, b"\xff" * 12)
    assert vf.space.read(0x70, 12) == bytes.fromhex("11a0 10c0 03000000 03200000".replace(" ", ""))
    assert vf.events == [("msix", True, True)]


@pytest.mark.vfio_user("12.15.5", "12.15.9")
def test_msix_write_that_starts_at_the_upper_control_byte(vf: Recorder) -> None:
    write(vf, 0x73, 2, 0xFF80)
    assert (read(vf, 0x72, 2), vf.events) == (0x8010, [("msix", True, False)])


@pytest.mark.vfio_user("12.15.9")
def test_msix_write_behind_control_leaves_enable_alone(vf: Recorder) -> None:
    write(vf, 0x72, 2, 0x8000)
    write(vf, 0x74, 4, 0)
    assert vf.space.msix_enabled


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0xA8, "1080"),
        (0xA9, "80"),
        (0xA8, "10a80000"),
        (0xA9, "8000"),
        (0xA6, "00000080"),
        (0xA4, "0000000000800000"),
        (0xA7, "000080"),
    ],
)
@pytest.mark.vfio_user("11.4", "12.15.7")
def test_flr_at_any_width(vf: Recorder, offset: int, data: str) -> None:
    vf.space.write(offset, bytes.fromhex(data))
    assert vf.events == [("flr",)]


@pytest.mark.parametrize(
    ("offset", "data"), [(0xA8, "ff7f"), (0xA8, "80"), (0xAA, "0080"), (0xA6, "0080")]
)
@pytest.mark.vfio_user("12.15.7")
def test_writes_near_the_flr_bit_are_no_flr(vf: Recorder, offset: int, data: str) -> None:
    vf.space.write(offset, bytes.fromhex(data))
    assert vf.events == []


@pytest.mark.vfio_user("11.7")
def test_devctl_is_stored_but_the_flr_bit_reads_zero(vf: Recorder) -> None:
    write(vf, 0xA8, 2, 0x7FFF)
    assert read(vf, 0xA8, 2) == 0x7FFF


@pytest.mark.parametrize(("offset", "stored"), [(0xB0, 0x01CB), (0xC8, 0x0010), (0xD0, 0x000F)])
@pytest.mark.vfio_user("12.15.10")
def test_second_control_registers_are_stored(vf: Recorder, offset: int, stored: int) -> None:
    write(vf, offset, 2, 0xFFFF)
    assert read(vf, offset, 2) == stored


def test_flr_restores_power_on_values_and_reports_what_changed(vf: Recorder) -> None:
    initial = vf.space.read(0, 4096)
    write(vf, 0x10, 8, 0x1_0000_0000)
    write(vf, 0x72, 2, 0xC000)
    write(vf, 4, 2, 6)
    vf.events.clear()
    write(vf, 0xA8, 2, 0x8000)
    assert vf.space.read(0, 4096) == initial
    assert vf.events == [("flr",), ("command", 6, 0), ("msix", False, False)]


def test_reset_when_nothing_was_written_reports_nothing(vf: Recorder) -> None:
    vf.space.reset()
    assert vf.events == []


@pytest.mark.parametrize(("offset", "count"), [(4096, 1), (4095, 2), (0, 4097), (-1, 1)])
def test_access_outside_is_refused(vf: Recorder, offset: int, count: int) -> None:
    with pytest.raises(PeerError):
        vf.space.read(offset, count)


def test_every_byte_survives_a_walk_with_every_width(vf: Recorder) -> None:
    image = vf.space.read(0, 4096)
    for width in (1, 2, 4, 8):
        walked = b"".join(vf.space.read(at, width) for at in range(0, 4096, width))
        assert walked == image
