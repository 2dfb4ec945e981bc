"""The memory table: maps, extents, faults, views, and that nothing is left behind."""

import errno
import fcntl
import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from emuiavf._dma import MemTable
from emuiavf.emudev.info import DmaProt, MemRegion
from emuiavf.errors import MemoryFault, PeerError
from tests.timing import best_of

PAGE = 4096
RW = DmaProt.READ | DmaProt.WRITE
SEALABLE = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING


def memfd(size: int, flags: int = os.MFD_CLOEXEC) -> int:
    fd = os.memfd_create("guest", flags)
    os.ftruncate(fd, size)
    return fd


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def guest_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:guest")


@pytest.fixture
def mem() -> Iterator[MemTable]:
    gc.collect()  # what earlier tests have left
    fds, mappings = open_fds(), guest_mappings()
    table = MemTable()
    yield table
    table.unmap_all()
    table.reclaim()
    gc.collect()
    assert guest_mappings() == mappings
    assert open_fds() == fds


def map_new(mem: MemTable, iova: int, size: int, prot: int = RW) -> None:
    mem.map(iova, size, prot, memfd(size), 0)


# --- Mapping and reaching


def test_write_then_read_returns_the_bytes(mem: MemTable) -> None:
    map_new(mem, 0x10000, 4 * PAGE)
    mem.write(0x10FFE, b"across pages")
    assert mem.read(0x10FFC, 16) == b"\0\0across pages\0\0"


def test_map_shows_the_file_at_the_offset(mem: MemTable) -> None:
    fd = memfd(4 * PAGE)
    os.pwrite(fd, b"here", 2 * PAGE + 8)
    mem.map(0x7F0000000000, PAGE, RW, fd, 2 * PAGE)
    assert mem.read(0x7F0000000008, 4) == b"here"


def test_write_is_seen_by_the_client(mem: MemTable) -> None:
    fd = memfd(PAGE)
    mine = os.dup(fd)
    mem.map(0, PAGE, RW, fd, 0)
    mem.write(12, b"device")
    seen = os.pread(mine, 6, 12)
    os.close(mine)
    assert seen == b"device"


def test_regions_list_every_map_in_order(mem: MemTable) -> None:
    map_new(mem, 0x8000, PAGE)
    mem.map(0x1000, PAGE, DmaProt.READ, None, 0)
    assert mem.regions == (
        MemRegion(0x1000, PAGE, DmaProt.READ, False),
        MemRegion(0x8000, PAGE, RW, True),
    )


@pytest.mark.parametrize("prot", [DmaProt(0), DmaProt.READ, DmaProt.WRITE, RW])
@pytest.mark.vfio_user("11.11", "12.18.1")
def test_map_without_fd_cannot_be_reached(mem: MemTable, prot: DmaProt) -> None:
    mem.map(0x1000, PAGE, prot, None, 0)
    assert mem.extents == ()
    with pytest.raises(MemoryFault):
        mem.read(0x1000, 1)


@pytest.mark.vfio_user("11.11")
def test_write_to_read_only_map_faults(mem: MemTable) -> None:
    map_new(mem, 0, PAGE, DmaProt.READ)
    assert mem.read(0, 2) == b"\0\0"
    with pytest.raises(MemoryFault, match="for write"):
        mem.write(0, b"x")


def test_read_of_write_only_map_faults(mem: MemTable) -> None:
    map_new(mem, 0, PAGE, DmaProt.WRITE)
    mem.write(0, b"x")
    with pytest.raises(MemoryFault, match="for read"):
        mem.read(0, 1)


@pytest.mark.parametrize(
    ("iova", "size"),
    [
        (0xFFF, 1),
        (0xFFF, 2),
        (0x3000, 1),
        (0x2FFF, 2),
        (0x1000, 2**64 - 0x1000),
        (0x1000, 2**63),
        (2**64 - 1, 2),
        (2**64, 1),
        (-1, 1),
        (0x1000, -1),
    ],
)
@pytest.mark.vfio_user("11.11", "12.18.1")
def test_read_outside_the_map_faults(mem: MemTable, iova: int, size: int) -> None:
    map_new(mem, 0x1000, 2 * PAGE)
    with pytest.raises(MemoryFault):
        mem.read(iova, size)


def test_write_that_does_not_fit_changes_nothing(mem: MemTable) -> None:
    map_new(mem, 0x1000, PAGE)
    with pytest.raises(MemoryFault):
        mem.write(0x1FFE, b"long")
    assert mem.read(0x1FFE, 2) == b"\0\0"


# --- Extents


def test_adjacent_maps_of_different_files_are_one_extent(mem: MemTable) -> None:
    map_new(mem, 0x2000, PAGE)
    map_new(mem, 0x0000, PAGE)
    map_new(mem, 0x1000, PAGE)
    assert mem.extents == ((0, 3 * PAGE, 3),)
    mem.write(0xFF8, b"0123456789abcdef")
    assert mem.read(0xFF8, 16) == b"0123456789abcdef"


def test_adjacent_maps_of_different_protection_stay_apart(mem: MemTable) -> None:
    map_new(mem, 0x0000, PAGE, DmaProt.READ)
    map_new(mem, 0x1000, PAGE)
    assert mem.extents == ((0, PAGE, 1), (PAGE, PAGE, 3))
    assert mem.read(0xFFF, 2) == b"\0\0"


def test_unmap_in_the_middle_leaves_both_ends(mem: MemTable) -> None:
    for number in range(5):
        map_new(mem, number * PAGE, PAGE)
    mem.write(4 * PAGE, b"last")
    assert mem.unmap(PAGE, 2 * PAGE) == 2
    assert mem.extents == ((0, PAGE, 3), (3 * PAGE, 2 * PAGE, 3))
    assert mem.read(4 * PAGE, 4) == b"last"


def test_map_again_after_reclaim_joins_again(mem: MemTable) -> None:
    for number in range(3):
        map_new(mem, number * PAGE, PAGE)
    mem.unmap(PAGE, PAGE)
    mem.reclaim()
    map_new(mem, PAGE, PAGE)
    assert mem.extents == ((0, 3 * PAGE, 3),)


def test_map_again_before_reclaim_works(mem: MemTable) -> None:
    map_new(mem, 0, PAGE)
    mem.write(0, b"old")
    mem.unmap(0, PAGE)
    map_new(mem, 0, PAGE)
    assert mem.read(0, 3) == b"\0\0\0"


def test_maps_in_more_windows_than_are_reserved_work(mem: MemTable) -> None:
    for number in range(9):
        map_new(mem, number << 40, PAGE)
        mem.write(number << 40, bytes([number]))
    assert [mem.read(number << 40, 1)[0] for number in range(9)] == list(range(9))


def test_map_across_a_window_border_works(mem: MemTable) -> None:
    map_new(mem, (1 << 38) - PAGE, 2 * PAGE)
    mem.write((1 << 38) - 2, b"both")
    assert mem.read((1 << 38) - 2, 4) == b"both"


def test_sixty_four_devices_get_their_windows() -> None:
    tables = [MemTable() for _ in range(64)]
    for number, table in enumerate(tables):
        for window in range(4):
            map_new(table, window << 38, PAGE)
            map_new(table, (window << 38) + PAGE, PAGE)
        table.write(PAGE - 1, bytes([number, number]))
    assert all(len(table.extents) == 4 for table in tables)
    assert [table.read(PAGE, 1)[0] for table in tables] == list(range(64))


# --- Refusals: errno, nothing changed, descriptor closed


@pytest.mark.parametrize(
    ("iova", "size", "prot", "offset"),
    [
        (0, 0, 3, 0),
        (1, PAGE, 3, 0),
        (0, PAGE + 1, 3, 0),
        (0, PAGE, 3, 1),
        (0, PAGE, 4, 0),
        (0, PAGE, 3, 2 * PAGE),
        (0, 3 * PAGE, 3, 0),
        (0, 2 * PAGE, 3, PAGE),
        (0, PAGE, 3, 2**63 - PAGE),
        (0, PAGE, 3, 2**64 - PAGE),
        (0, 2**63, 3, 0),
        (2**64 - PAGE, 2 * PAGE, 3, 0),
        (2**64 - PAGE, PAGE, 3, 0),
        (2**64, PAGE, 3, 0),
    ],
)
def test_map_of_a_wrong_range_is_refused(
    mem: MemTable, iova: int, size: int, prot: int, offset: int
) -> None:
    before = open_fds()
    with pytest.raises(PeerError) as refusal:
        mem.map(iova, size, prot, memfd(2 * PAGE), offset)
    assert refusal.value.errno == errno.EINVAL
    assert (mem.regions, mem.extents, open_fds()) == ((), (), before)


@pytest.mark.parametrize("first_has_fd", [True, False])
@pytest.mark.parametrize(
    ("iova", "size"),
    [(0x2000, 0x2000), (0x1000, 0x2000), (0x3000, 0x1000), (0x3000, 0x4000), (0, 0x8000)],
)
@pytest.mark.vfio_user("12.21.6")
def test_map_over_a_map_is_refused(mem: MemTable, iova: int, size: int, first_has_fd: bool) -> None:
    mem.map(0x2000, 0x2000, RW, memfd(0x2000) if first_has_fd else None, 0)
    before = mem.regions, mem.extents, open_fds()
    with pytest.raises(PeerError, match="overlaps") as refusal:
        map_new(mem, iova, size)
    assert refusal.value.errno == errno.EEXIST
    assert (mem.regions, mem.extents, open_fds()) == before


def test_map_of_a_pipe_is_refused(mem: MemTable) -> None:
    reading, writing = os.pipe()
    with pytest.raises(PeerError) as refusal:
        mem.map(0, PAGE, RW, reading, 0)
    os.close(writing)
    assert refusal.value.errno in (errno.ENODEV, errno.EACCES)
    assert mem.regions == ()


def test_writable_map_of_a_read_only_file_is_refused(mem: MemTable, tmp_path: Path) -> None:
    path = tmp_path / "rom"
    path.write_bytes(b"r" * PAGE)
    with pytest.raises(PeerError) as refusal:
        mem.map(0, PAGE, RW, os.open(path, os.O_RDONLY), 0)
    assert refusal.value.errno == errno.EACCES
    mem.map(0, PAGE, DmaProt.READ, os.open(path, os.O_RDONLY), 0)
    assert mem.read(PAGE - 1, 1) == b"r"


def test_refused_map_leaves_its_place_usable(mem: MemTable, tmp_path: Path) -> None:
    path = tmp_path / "rom"
    path.write_bytes(b"r" * PAGE)
    map_new(mem, 0, PAGE)
    with pytest.raises(PeerError):
        mem.map(PAGE, PAGE, RW, os.open(path, os.O_RDONLY), 0)
    map_new(mem, PAGE, PAGE)
    assert mem.extents == ((0, 2 * PAGE, 3),)


def test_map_closes_its_descriptor(mem: MemTable) -> None:
    fd = memfd(PAGE)
    mem.map(0, PAGE, RW, fd, 0)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# --- Unmapping


def test_unmap_takes_only_maps_wholly_inside(mem: MemTable) -> None:
    map_new(mem, 0x1000, 0x2000)
    map_new(mem, 0x3000, 0x1000)
    mem.map(0x4000, 0x1000, RW, None, 0)
    map_new(mem, 0x5000, 0x2000)
    assert mem.unmap(0x2000, 0x4000) == 2
    assert [region.iova for region in mem.regions] == [0x1000, 0x5000]
    assert mem.extents == ((0x1000, 0x2000, 3), (0x5000, 0x2000, 3))


@pytest.mark.parametrize(
    ("iova", "size"), [(0, 0), (0, PAGE), (PAGE, PAGE), (2**64 - 1, 1), (5, 2**70)]
)
def test_unmap_of_nothing_returns_zero(mem: MemTable, iova: int, size: int) -> None:
    map_new(mem, 0, 2 * PAGE)
    assert mem.unmap(iova, size) == 0
    assert len(mem.regions) == 1


def test_unmapped_pages_stay_until_reclaim(mem: MemTable) -> None:
    before = guest_mappings()
    map_new(mem, 0, PAGE)
    mem.unmap(0, PAGE)
    assert guest_mappings() == before + 1
    mem.reclaim()
    assert guest_mappings() == before
    assert mem.retired == 0


def test_unmap_all_forgets_everything(mem: MemTable) -> None:
    for number in range(4):
        map_new(mem, number * 2 * PAGE, PAGE)
    mem.unmap_all()
    assert (mem.regions, mem.extents) == ((), ())


def test_table_that_goes_away_unmaps_everything() -> None:
    gc.collect()
    before = guest_mappings()
    mem = MemTable()
    map_new(mem, 0, PAGE)
    map_new(mem, (1 << 38) - PAGE, 2 * PAGE)
    del mem
    assert guest_mappings() == before


# --- Files


def test_sealable_memfd_can_no_longer_shrink(mem: MemTable) -> None:
    fd = memfd(PAGE, SEALABLE)
    mine = os.dup(fd)
    mem.map(0, PAGE, RW, fd, 0)
    seals = fcntl.fcntl(mine, fcntl.F_GET_SEALS)
    with pytest.raises(PermissionError):
        os.ftruncate(mine, 0)
    os.close(mine)
    assert seals == fcntl.F_SEAL_SHRINK


def test_memfd_sealed_by_its_client_is_taken_as_it_is(mem: MemTable) -> None:
    fd = memfd(PAGE, SEALABLE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    mem.map(0, PAGE, RW, fd, 0)
    assert mem.read(0, 1) == b"\0"


def test_map_is_not_executable_nor_dumped(mem: MemTable) -> None:
    map_new(mem, 0, PAGE)
    before, after = Path("/proc/self/smaps").read_text().split("/memfd:guest")
    assert " rw-s " in before.splitlines()[-1]
    assert " dd" in next(line for line in after.splitlines() if line.startswith("VmFlags"))


@pytest.fixture
def huge_page() -> Iterator[int]:
    """A memfd with two 2 MiB pages in it."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    os.ftruncate(fd, 4 << 20)
    try:
        os.posix_fallocate(fd, 0, 4 << 20)
    except OSError:
        os.close(fd)
        pytest.skip("no free huge pages (vm.nr_hugepages)")
    yield fd
    os.close(fd)


def test_part_of_a_huge_page_is_reachable(mem: MemTable, huge_page: int) -> None:
    mem.map(0x5000, 3 * PAGE, RW, os.dup(huge_page), (2 << 20) - PAGE)
    mem.write(0x5000, b"a" * 3 * PAGE)
    mem.map(0x40000000, 4 << 20, RW, os.dup(huge_page), 0)
    around = mem.read(0x40000000 + (2 << 20) - PAGE - 1, 3 * PAGE + 2)
    assert around == b"\0" + b"a" * 3 * PAGE + b"\0"


def test_huge_page_that_cannot_be_had_faults(mem: MemTable) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    os.ftruncate(fd, 1 << 50)  # more than any pool: the last pages never come
    mem.map(0, 4 << 20, RW, fd, (1 << 50) - (4 << 20))
    try:
        mem.read(2 << 20, 8)
    except MemoryFault:
        assert mem.broken
    else:
        pytest.skip("there were free huge pages (vm.nr_hugepages)")


# --- Pages that vanish


@pytest.fixture
def fault_fd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def map_and_truncate(mem: MemTable, size: int, left: int) -> None:
    fd = memfd(size)
    mine = os.dup(fd)
    mem.map(0x100000, size, RW, fd, 0)
    os.ftruncate(mine, left)
    os.close(mine)


def test_read_of_a_vanished_page_faults_and_reports(fault_fd: int) -> None:
    mem = MemTable(fault_fd)
    map_and_truncate(mem, 4 * PAGE, PAGE)
    assert mem.read(0x100000, PAGE) == bytes(PAGE)
    assert not mem.broken
    with pytest.raises(MemoryFault, match="vanished"):
        mem.read(0x100000, PAGE + 1)
    assert mem.broken is True
    assert os.eventfd_read(fault_fd) == 1


def test_write_to_a_vanished_page_faults() -> None:
    mem = MemTable()
    map_and_truncate(mem, 4 * PAGE, 0)
    with pytest.raises(MemoryFault, match="vanished"):
        mem.write(0x100000, b"x" * 2 * PAGE)
    assert mem.broken
    mem.clear_broken()
    assert not mem.broken


def test_nogil_copy_of_vanished_pages_reads_zeros(fault_fd: int) -> None:
    mem = MemTable(fault_fd)
    map_and_truncate(mem, 64 * PAGE, PAGE)
    copy = np.ones(64 * PAGE, np.uint8)
    np.copyto(copy, mem.view(0x100000, 64 * PAGE))  # numpy gives the GIL up for this
    assert not copy.any()
    assert mem.broken
    assert os.eventfd_read(fault_fd) == 63


def test_vanished_page_leaves_the_sibling_alone(fault_fd: int) -> None:
    mem, sibling = MemTable(), MemTable(fault_fd)
    map_and_truncate(mem, PAGE, 0)
    map_new(sibling, 0x100000, PAGE)
    sibling.write(0x100000, b"mine")
    with pytest.raises(MemoryFault):
        mem.read(0x100000, 4)
    assert sibling.read(0x100000, 4) == b"mine"
    assert not sibling.broken
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fault_fd)


def test_vanished_page_under_a_view_of_a_dead_table_is_survived() -> None:
    mem = MemTable()
    fd = memfd(PAGE)
    mine = os.dup(fd)
    mem.map(0, PAGE, RW, fd, 0)
    view = mem.view(0, PAGE)
    del mem
    os.ftruncate(mine, 0)
    os.close(mine)
    assert view[5] == 0


def test_repaired_range_can_be_unmapped_and_mapped_again(mem: MemTable) -> None:
    map_and_truncate(mem, 4 * PAGE, 0)
    with pytest.raises(MemoryFault):
        mem.read(0x100000, 4 * PAGE)
    mem.unmap_all()
    mem.reclaim()
    map_new(mem, 0x100000, 4 * PAGE)
    assert mem.read(0x100000, 4 * PAGE) == bytes(4 * PAGE)


FOREIGN_FAULT = """
import faulthandler, mmap, os
{first}
from emuiavf._dma import MemTable
mem = MemTable()
{second}
mem = MemTable()
fd = os.memfd_create("stranger")
os.ftruncate(fd, 4096)
pages = mmap.mmap(fd, 4096)
os.ftruncate(fd, 0)
pages[0]
"""


@pytest.mark.parametrize(
    ("first", "second", "printed"),
    [
        ("", "", ""),
        ("faulthandler.enable()", "", "Fatal Python error: Bus error"),
        ("", "faulthandler.enable()", "Fatal Python error: Bus error"),
    ],
)
def test_foreign_fault_goes_to_the_handler_before_ours(
    first: str, second: str, printed: str
) -> None:
    source = FOREIGN_FAULT.format(first=first, second=second)
    # AddressSanitizer, when it is there, must not answer in the place of the default action.
    sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":handle_sigbus=0"
    result = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": sanitizer},
    )
    assert printed in result.stderr
    assert result.returncode == -7  # SIGBUS


# --- Views


def test_view_shares_the_memory(mem: MemTable) -> None:
    map_new(mem, 0, 2 * PAGE)
    view = mem.view(PAGE - 2, 4, writable=True)
    view[:] = [1, 2, 3, 4]
    assert mem.read(PAGE - 2, 4) == b"\1\2\3\4"


def test_view_is_read_only_unless_asked(mem: MemTable) -> None:
    map_new(mem, 0, PAGE)
    assert not mem.view(0, 16).flags.writeable


def test_writable_view_of_a_read_only_map_faults(mem: MemTable) -> None:
    map_new(mem, 0, PAGE, DmaProt.READ)
    with pytest.raises(MemoryFault):
        mem.view(0, 16, writable=True)


def test_view_keeps_its_pages_until_it_is_gone(mem: MemTable) -> None:
    before = guest_mappings()
    map_new(mem, 0, PAGE)
    map_new(mem, PAGE, PAGE)
    view = mem.view(PAGE - 2, 4, writable=True)
    part = view[2:]
    mem.unmap_all()
    mem.reclaim()
    del view
    part[0] = 7
    assert part[0] == 7
    assert guest_mappings() == before + 2
    del part
    assert guest_mappings() == before


def test_map_where_a_view_still_holds_the_old_pages(mem: MemTable) -> None:
    map_new(mem, 0, PAGE)
    view = mem.view(0, PAGE, writable=True)
    view[0] = 9
    mem.unmap_all()
    mem.reclaim()
    map_new(mem, 0, PAGE)
    assert mem.read(0, 1) == b"\0"
    assert view[0] == 9


@pytest.mark.vfio_user("12.18.1")
def test_view_across_extents_faults(mem: MemTable) -> None:
    map_new(mem, 0, PAGE, DmaProt.READ)
    map_new(mem, PAGE, PAGE)
    with pytest.raises(MemoryFault, match="not one extent"):
        mem.view(0, 2 * PAGE)


# --- Many maps


def test_thousand_pairs_beside_a_thousand_maps_are_quick(mem: MemTable) -> None:
    fd = memfd(PAGE)
    for number in range(1000):
        mem.map(number * 2 * PAGE, PAGE, RW, os.dup(fd), 0)

    def run() -> float:
        start = time.perf_counter()
        for number in range(1000):
            iova = (2 * number + 1) * PAGE
            mem.map(iova, PAGE, RW, os.dup(fd), 0)
            assert mem.unmap(iova, PAGE) == 1
            mem.reclaim()
        return time.perf_counter() - start

    spent = best_of(8, 0.5, run)
    os.close(fd)
    assert spent < 0.5


@pytest.mark.vfio_user("12.10.2")
def test_more_maps_than_the_limit_are_refused(mem: MemTable) -> None:
    for number in range(65535):
        mem.map(number * PAGE, PAGE, RW, None, 0)
    with pytest.raises(PeerError) as refusal:
        mem.map(65535 * PAGE, PAGE, RW, None, 0)
    assert refusal.value.errno == errno.ENOSPC
    assert mem.unmap(0, 65535 * PAGE) == 65535


# --- Against a dictionary of pages

PAGES = 24
page_numbers = st.integers(0, PAGES - 1)


class Model(RuleBasedStateMachine):
    """Random maps and unmaps; every page of a small IOVA space is asked for after each."""

    def __init__(self) -> None:
        super().__init__()
        self.mem = MemTable()
        self.maps: dict[int, tuple[int, int, bool, int]] = {}  # first -> count, prot, fd, mark
        self.marks = 1
        self.views: list[tuple[np.ndarray, int]] = []

    def pages(self) -> dict[int, tuple[int, int]]:
        return {
            page: (prot, mark + page - first)
            for first, (count, prot, has_fd, mark) in self.maps.items()
            for page in range(first, first + count)
            if has_fd
        }

    @rule(
        first=page_numbers,
        count=st.integers(1, 5),
        prot=st.sampled_from([0, 1, 3]),
        has_fd=st.booleans(),
    )
    def map(self, first: int, count: int, prot: int, has_fd: bool) -> None:
        fd = None
        if has_fd:
            fd = memfd(count * PAGE)
            for page in range(count):
                os.pwrite(fd, (self.marks + page).to_bytes(4, "little"), page * PAGE)
        taken = any(
            first < other + length and other < first + count
            for other, (length, *_) in self.maps.items()
        )
        if taken:
            with pytest.raises(PeerError, match="overlaps"):
                self.mem.map(first * PAGE, count * PAGE, prot, fd, 0)
        else:
            self.mem.map(first * PAGE, count * PAGE, prot, fd, 0)
            self.maps[first] = (count, prot, has_fd, self.marks)
        self.marks += count

    @rule(first=page_numbers, count=st.integers(0, PAGES))
    def unmap(self, first: int, count: int) -> None:
        inside = [
            other
            for other, (length, *_) in self.maps.items()
            if first <= other and other + length <= first + count
        ]
        assert self.mem.unmap(first * PAGE, count * PAGE) == len(inside)
        for other in inside:
            del self.maps[other]

    @rule()
    def reclaim(self) -> None:
        self.mem.reclaim()

    @rule(page=page_numbers)
    def view(self, page: int) -> None:
        prot, mark = self.pages().get(page, (0, 0))
        if prot:
            self.views.append((self.mem.view(page * PAGE, 4), mark))

    @rule()
    def drop_views(self) -> None:
        self.views.clear()

    @invariant()
    def every_page_is_as_the_model_says(self) -> None:
        pages = self.pages()
        for page in range(PAGES + 5):
            prot, mark = pages.get(page, (0, 0))
            if prot:
                assert self.mem.read(page * PAGE, 4) == mark.to_bytes(4, "little")
            else:
                with pytest.raises(MemoryFault):
                    self.mem.read(page * PAGE, 4)
            if prot & 2:
                self.mem.write(page * PAGE + PAGE - 1, b"w")
            else:
                with pytest.raises(MemoryFault):
                    self.mem.write(page * PAGE + PAGE - 1, b"w")

    @invariant()
    def views_keep_their_contents(self) -> None:
        for view, mark in self.views:
            assert bytes(view) == mark.to_bytes(4, "little")

    @invariant()
    def extents_are_ascending_and_disjoint(self) -> None:
        extents = self.mem.extents
        for (iova, size, _), (following, _, _) in itertools.pairwise(extents):
            assert iova + size <= following

    def teardown(self) -> None:
        self.views.clear()
        self.mem.unmap_all()
        self.mem.reclaim()


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase


@given(st.integers(-1, 2**64 + 1), st.integers(-1, 2**64 + 1))
def test_any_range_is_answered_without_harm(iova: int, size: int) -> None:
    mem = MemTable()
    map_new(mem, PAGE, 2 * PAGE)
    inside = iova >= PAGE and size >= 0 and iova + size <= 3 * PAGE
    try:
        data = mem.read(iova, size)
    except MemoryFault:
        assert not inside
    else:
        assert inside
        assert data == bytes(size)
