"""Counters in POSIX shared memory: written in place by whoever counts, read by any process.

A segment has a header, a table of row names and rows of 16 little-endian u64 counters.  Every row
has one writer and its own cache lines, so counting costs no lock and no message, and a reader
needs nothing but the segment.  The epoch says when counting began: two snapshots can be
subtracted when their epochs are equal, and epoch 0 means that the owner has closed the segment.

A segment is alive while its owner holds the lock on it.  The system drops that lock with the
process, which is how segments of killed processes are known; the next `Segment` removes them.
"""

import fcntl
import mmap
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import posix_ipc

from emuiavf.emudev.info import EthStats
from emuiavf.errors import ConfigError, PeerError, StateError
from emuiavf.layout import U32, U64, Wire, wire

COLUMNS = 16
ROW_SIZE = 8 * COLUMNS

# Column i of a row, by direction; the compiled code counts by the same indexes.  rx: bytes (with
# FCS) and frames are those received, discarded ones included; discards is the sum of the reasons
# and discarded_bytes (with FCS) the discarded part of bytes.  tx: bytes (without FCS) and frames
# are those on the wire, after segmentation.
RX_COUNTERS = (
    "bytes",
    "unicast",
    "multicast",
    "broadcast",
    "discards",
    "unknown_protocol",
    "packets",
    "no_buffer",
    "too_long",
    "queue_off",
    "bad_address",
    "interrupts",
    "csum_bad",
    "discarded_bytes",
    "rule_drops",
)
TX_COUNTERS = (
    "bytes",
    "unicast",
    "multicast",
    "broadcast",
    "discards",
    "errors",
    "packets",
    "segments",
    "malicious",
    "spoofed",
    "held",
    "interrupts",
    "filtered",
    "storm",
)
# Of numbered frames: lost ones may still come, and are reordered then; flows are those seen.
VERIFY_COUNTERS = ("frames", "lost", "reordered", "corrupted", "flows")
# By the part of a row's name before "-": queues of a device; directions of a port, which takes
# frames from the guests as a receiver and gives them frames as a sender.
COUNTERS = {
    "rx": RX_COUNTERS,
    "tx": TX_COUNTERS,
    "from_guest": RX_COUNTERS,
    "to_guest": TX_COUNTERS,
    "verify": VERIFY_COUNTERS,
}

PORT_ROWS = ("from_guest-0", "to_guest-0")

Table = npt.NDArray[np.uint64]
"""(rows, 16) counters."""

FCS_SIZE = 4
_MAGIC = int.from_bytes(b"emuiavf\0", "little")
_VERSION = 1
_PAGE = 4096
_NAME_SIZE = 32
_MAX_ROWS = 1 << 12
_SHM_DIR = Path("/dev/shm")
_FILE = re.compile(r"emuiavf-(\d+)-([\w.-]+)", re.ASCII)


@wire(size=104)
class _Header(Wire):
    """The first bytes of a segment; 32 bytes per row name follow, rows begin at `rows_offset`."""

    magic: U64
    version: U32
    pid: U32
    epoch: U64
    num_rows: U32
    rows_offset: U32
    num_pairs: U64  # the queue pairs that the device has; all rows count when 0
    name: Annotated[bytes, "64s"]


_EPOCH = slice(16, 24)
_NUM_PAIRS = slice(32, 40)


class SegmentId(NamedTuple):
    """Whose counters: the owner's process id and the name of the device or port."""

    pid: int
    name: str

    @property
    def path(self) -> str:
        """The name under which POSIX knows the segment."""
        return f"/emuiavf-{self.pid}-{self.name}"


class SegmentView:
    """A segment as any process sees it; `rows` cannot be written through it."""

    def __init__(self, ident: SegmentId) -> None:
        """Map it; ConfigError when there is no such segment or it is not one of ours."""
        self.ident = ident
        try:
            memory = posix_ipc.SharedMemory(ident.path, read_only=True)
        except (posix_ipc.ExistentialError, posix_ipc.PermissionsError) as error:
            raise ConfigError(f"{ident.name}: no counters to read: {error}") from None
        try:
            self._map = mmap.mmap(memory.fd, memory.size, prot=mmap.PROT_READ)
        except ValueError:
            raise ConfigError(f"{ident.path}: empty") from None
        finally:
            memory.close_fd()
        self.names, self.rows = _tables(self._map, ident.path)

    @property
    def epoch(self) -> int:
        """Nanoseconds since 1970 at which counting began; 0 after the owner has closed it."""
        return int.from_bytes(self._map[_EPOCH], "little")

    @property
    def num_pairs(self) -> int:
        """The queue pairs that the device has; rows beyond are for those it may get.  0: all."""
        return int.from_bytes(self._map[_NUM_PAIRS], "little")

    def row(self, name: str) -> int:
        """The index of the row called `name`; ValueError when there is none."""
        return self.names.index(name)

    def snapshot(self) -> Table:
        """A copy of all rows in which every counter is whole."""
        return self.rows.copy()


class Segment:
    """The owner's end of a segment.  `rows` may be written, also by compiled code that keeps a
    view of it: the memory lives until the last view is gone."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        """Create it with one row for each of `names`, all zero, and remove what the dead left."""
        assert len(names) <= _MAX_ROWS
        for ident in _present():
            _remove_if_dead(ident)
        self.ident = SegmentId(os.getpid(), name)
        self.names = tuple(names)
        rows_offset = -(-(_Header.SIZE + len(names) * _NAME_SIZE) // _PAGE) * _PAGE
        size = rows_offset + len(names) * ROW_SIZE
        self._fd = _create_locked(self.ident, size)
        self._map = mmap.mmap(self._fd, size)
        for index, row_name in enumerate(names):
            at = _Header.SIZE + index * _NAME_SIZE
            self._map[at : at + _NAME_SIZE] = row_name.encode().ljust(_NAME_SIZE, b"\0")
        header = _Header(
            _MAGIC,
            _VERSION,
            self.ident.pid,
            time.time_ns(),
            len(names),
            rows_offset,
            0,
            name.encode(),
        )
        self._map[: _Header.SIZE] = header.encode()
        _, self.rows = _tables(self._map, self.ident.path)

    def row(self, name: str) -> int:
        """The index of the row called `name`; ValueError when there is none."""
        return self.names.index(name)

    def snapshot(self) -> Table:
        """A copy of all rows in which every counter is whole."""
        return self.rows.copy()

    @property
    def num_pairs(self) -> int:
        """As in SegmentView."""
        return int.from_bytes(self._map[_NUM_PAIRS], "little")

    @num_pairs.setter
    def num_pairs(self, count: int) -> None:
        self._map[_NUM_PAIRS] = count.to_bytes(8, "little")

    def close(self) -> None:
        """Remove the segment; readers that have it mapped see epoch 0."""
        if self._fd < 0:
            raise StateError(f"{self.ident.path}: closed already")
        self._map[_EPOCH] = bytes(8)
        posix_ipc.unlink_shared_memory(self.ident.path)
        os.close(self._fd)
        self._fd = -1


def queue_rows(num_queue_pairs: int) -> list[str]:
    """The rows of a device: one per Rx queue, then one per Tx queue."""
    return [f"{kind}-{i}" for kind in ("rx", "tx") for i in range(num_queue_pairs)]


def list_segments() -> list[SegmentId]:
    """The segments whose owners live, by process and name."""
    return [ident for ident in _present() if not _is_dead(ident)]


def open_segment(name: str) -> SegmentView:
    """The segment called `name`, or `PID-name` when several processes have one of that name.

    ConfigError when there is none, or more than one.
    """
    found = [i for i in list_segments() if name in (i.name, f"{i.pid}-{i.name}")]
    if not found:
        there = ", ".join(ident.name for ident in list_segments()) or "none"
        raise ConfigError(
            f"{name}: no running process has counters of that name; there are {there}"
        )
    if len(found) > 1:
        choices = ", ".join(f"{ident.pid}-{ident.name}" for ident in found)
        raise ConfigError(f"{name}: several processes have one; say which: {choices}")
    return SegmentView(found[0])


def eth_stats(segment: Segment | SegmentView) -> EthStats:
    """The counters of virtchnl GET_STATS: sums over the queues of a device.

    For a port, what it took from the guests counts as received, what it gave them as sent.
    """
    return _sums(segment.names, segment.snapshot())


def named(segment: Segment | SegmentView) -> dict[str, int]:
    """All counters by name: those of `ethtool -S`, then the other columns of every row.

    Of a device the rows of the queue pairs that it has, and of others that have counted something.
    `<row>.bytes` means what the guest's driver counts under that name: frames without their FCS,
    and of those received only what was delivered.
    """
    rows = segment.snapshot()
    totals = dict(vars(_sums(segment.names, rows)))
    for name, row in zip(segment.names, rows, strict=True):
        kind = _kind(name)
        if 0 < segment.num_pairs <= _number(name) and not row.any():
            continue
        columns = dict(zip(COUNTERS[kind], map(int, row), strict=False))
        if COUNTERS[kind] is RX_COUNTERS:
            columns["bytes"] -= columns["discarded_bytes"] + FCS_SIZE * columns["packets"]
        totals |= {f"{name}.{column}": value for column, value in columns.items()}
    return totals


def _kind(row_name: str) -> str:
    return row_name.rpartition("-")[0]


def _number(row_name: str) -> int:
    number = row_name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _sums(names: Sequence[str], rows: Table) -> EthStats:
    first_six = []
    for columns in (RX_COUNTERS, TX_COUNTERS):
        chosen = [COUNTERS[_kind(name)] is columns for name in names]
        first_six += [int(value) for value in rows[chosen, :6].sum(axis=0)]
    return EthStats(*first_six)


def _tables(memory: mmap.mmap, path: str) -> tuple[tuple[str, ...], Table]:
    """Row names and rows of a mapped segment, of which nothing is believed yet."""
    try:
        header = _Header.decode(memory[: _Header.SIZE])
    except PeerError as error:
        raise ConfigError(f"{path}: {error}") from None
    names_end = _Header.SIZE + header.num_rows * _NAME_SIZE
    if (
        header.magic != _MAGIC
        or header.version != _VERSION
        or header.num_rows > _MAX_ROWS
        or not names_end <= header.rows_offset <= len(memory)
        or header.rows_offset % ROW_SIZE
        or len(memory) - header.rows_offset < header.num_rows * ROW_SIZE
    ):
        raise ConfigError(f"{path}: not a segment of counters that this version can read")
    names = tuple(
        memory[at : at + _NAME_SIZE].rstrip(b"\0").decode("ascii", "replace")
        for at in range(_Header.SIZE, names_end, _NAME_SIZE)
    )
    if any(_kind(name) not in COUNTERS for name in names):
        raise ConfigError(f"{path}: rows of a kind that this version does not know")
    count = header.num_rows * COLUMNS
    table = np.frombuffer(memory, np.uint64, count, header.rows_offset)
    return names, table.reshape(header.num_rows, COLUMNS)


def _present() -> list[SegmentId]:
    """The segments that are there, dead or alive."""
    matches = [_FILE.fullmatch(entry.name) for entry in sorted(_SHM_DIR.glob("emuiavf-*"))]
    return [SegmentId(int(match[1]), match[2]) for match in matches if match]


def _create_locked(ident: SegmentId, size: int) -> int:
    """An fd of the new segment with the owner's lock on it.

    Between creation and lock the segment looks dead; another process may remove it then, so it
    is looked for once more under the lock.
    """
    while True:
        try:
            memory = posix_ipc.SharedMemory(ident.path, posix_ipc.O_CREX, 0o644, size)
        except posix_ipc.ExistentialError:
            raise ConfigError(f"{ident.name}: this process has counters of that name") from None
        fcntl.flock(memory.fd, fcntl.LOCK_EX)
        try:
            there = posix_ipc.SharedMemory(ident.path)
        except posix_ipc.ExistentialError:
            memory.close_fd()
            continue
        same = os.path.sameopenfile(memory.fd, there.fd)
        there.close_fd()
        if same:
            return int(memory.fd)
        memory.close_fd()


def _is_dead(ident: SegmentId) -> bool:
    """Whether nobody holds the owner's lock; False for what cannot be opened."""
    try:
        memory = posix_ipc.SharedMemory(ident.path, read_only=True)
    except (posix_ipc.ExistentialError, posix_ipc.PermissionsError, ValueError):
        return False
    try:
        fcntl.flock(memory.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        memory.close_fd()
    return True


def _remove_if_dead(ident: SegmentId) -> None:
    if _is_dead(ident):
        # Another process may have been quicker, or it is another user's to remove.
        with suppress(posix_ipc.ExistentialError, posix_ipc.PermissionsError):
            posix_ipc.unlink_shared_memory(ident.path)
