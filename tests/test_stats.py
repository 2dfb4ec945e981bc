"""Counters in shared memory: layout, readers in other processes, what the dead leave behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import posix_ipc
import pytest

from emuiavf import stats
from emuiavf.emudev.info import EthStats
from emuiavf.errors import ConfigError, StateError
from emuiavf.stats import Segment, SegmentId, SegmentView

SHM = Path("/dev/shm")


def shm_file(ident: SegmentId) -> Path:
    return SHM / ident.path[1:]


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment(f"unit{os.getpid()}", stats.queue_rows(2))
    yield made
    if shm_file(made.ident).exists():
        made.close()


def run_child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


def test_rows_are_receive_queues_then_transmit_queues(segment: Segment) -> None:
    assert segment.names == ("rx-0", "rx-1", "tx-0", "tx-1")
    assert segment.row("tx-1") == 3


def test_rows_are_zero_cache_aligned_and_128_bytes_apart(segment: Segment) -> None:
    assert (segment.rows.shape, segment.rows.strides) == ((4, 16), (128, 8))
    assert segment.rows.ctypes.data % 128 == 0
    assert not segment.rows.any()


def test_view_sees_what_the_owner_counts(segment: Segment) -> None:
    view = SegmentView(segment.ident)
    segment.rows[2, 5] = 1 << 63
    assert (view.rows[2, 5], view.names, view.epoch > 0) == (1 << 63, segment.names, True)


def test_view_cannot_be_written(segment: Segment) -> None:
    view = SegmentView(segment.ident)
    with pytest.raises(ValueError, match="read-only"):
        view.rows[0, 0] = 1


def test_view_from_another_process_reads_live_counters(segment: Segment) -> None:
    code = (
        "from emuiavf import stats\n"
        f"view = stats.open_segment({segment.ident.name!r})\n"
        "print(int(view.rows[0, 1]), flush=True); input()\n"
        "print(int(view.rows[0, 1]), flush=True)\n"
    )
    segment.rows[0, 1] = 7
    with run_child(code) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        segment.rows[0, 1] = 8
        second, _ = child.communicate("\n", timeout=30)
    assert (first, second) == ("7\n", "8\n")


def test_close_removes_the_file_and_tells_readers(segment: Segment) -> None:
    view = SegmentView(segment.ident)
    rows = segment.rows
    segment.close()
    rows[0, 0] = 5
    assert (view.epoch, view.rows[0, 0], shm_file(segment.ident).exists()) == (0, 5, False)


def test_close_twice_is_refused(segment: Segment) -> None:
    segment.close()
    with pytest.raises(StateError):
        segment.close()


def test_same_name_twice_in_one_process_is_refused(segment: Segment) -> None:
    with pytest.raises(ConfigError, match="this process has counters of that name"):
        Segment(segment.ident.name, ["rx-0"])


def test_list_names_the_living(segment: Segment) -> None:
    assert segment.ident in stats.list_segments()


@pytest.mark.slow
def test_segment_of_a_killed_process_is_not_listed_and_removed_by_the_next() -> None:
    name = f"killed{os.getpid()}"
    code = (
        "from emuiavf.stats import Segment\n"
        f"s = Segment({name!r}, ['rx-0']); print('up', flush=True); input()"
    )
    with run_child(code) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ident = SegmentId(child.pid, name)
        listed = ident in stats.list_segments()
        child.send_signal(signal.SIGKILL)
    left = shm_file(ident).exists()
    still_listed = ident in stats.list_segments()
    Segment(f"next{os.getpid()}", ["rx-0"]).close()
    assert (listed, left, still_listed, shm_file(ident).exists()) == (True, True, False, False)


def test_segment_of_the_living_is_left_alone(segment: Segment) -> None:
    Segment(f"other{os.getpid()}", ["rx-0"]).close()
    assert shm_file(segment.ident).exists()


def test_open_names_what_there_is(segment: Segment) -> None:
    with pytest.raises(ConfigError, match=f"nosuch: no running process .*{segment.ident.name}"):
        stats.open_segment("nosuch")


def test_open_by_process_and_name(segment: Segment) -> None:
    assert stats.open_segment(f"{os.getpid()}-{segment.ident.name}").ident == segment.ident


def test_open_asks_which_when_two_processes_have_it(segment: Segment) -> None:
    code = (
        "from emuiavf.stats import Segment\n"
        f"s = Segment({segment.ident.name!r}, ['rx-0']); print('up', flush=True); input()\n"
        "s.close()"
    )
    with run_child(code) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(ConfigError, match=f"{child.pid}-{segment.ident.name}"):
            stats.open_segment(segment.ident.name)
        child.communicate("\n", timeout=30)


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        bytes(8192),
        b"emuiavf\0" + b"\x02" + bytes(8183),
        b"emuiavf\0\x01\0\0\0" + bytes(12) + b"\xff\xff\xff\xff" + bytes(8168),
        b"emuiavf\0\x01\0\0\0" + bytes(12) + b"\x01\0\0\0\x00\x10\0\0" + bytes(4068),
        b"emuiavf\0\x01\0\0\0" + bytes(12) + b"\x01\0\0\0\x00\x10\0\0" + bytes(8164),
    ],
    ids=["short", "no-magic", "version", "rows", "cut-off", "unknown-kind"],
)
def test_foreign_segment_is_refused(content: bytes) -> None:
    ident = SegmentId(os.getpid(), "foreign")
    memory = posix_ipc.SharedMemory(ident.path, posix_ipc.O_CREX, size=len(content))
    try:
        os.write(memory.fd, content)
        with pytest.raises(ConfigError):
            SegmentView(ident)
    finally:
        memory.close_fd()
        posix_ipc.unlink_shared_memory(ident.path)


def test_eth_stats_sums_over_the_queues(segment: Segment) -> None:
    segment.rows[:] = np.arange(4, dtype=np.uint64)[:, None] * 100 + np.arange(16, dtype=np.uint64)
    expected = EthStats(100, 102, 104, 106, 108, 110, 500, 502, 504, 506, 508, 510)
    assert stats.eth_stats(segment) == expected


def test_named_counters_are_those_of_ethtool(segment: Segment) -> None:
    segment.rows[0, :7] = (64 + 100 + 64, 1, 1, 1, 1, 0, 2)
    segment.rows[0, 13] = 100
    segment.rows[2, :7] = (120, 2, 0, 0, 0, 0, 2)
    counters = stats.named(segment)
    expected = {
        "rx_bytes": 228,
        "rx_unicast": 1,
        "rx_discards": 1,
        "tx_bytes": 120,
        "tx_errors": 0,
        "rx-0.packets": 2,
        "rx-0.bytes": 120,
        "tx-0.packets": 2,
        "tx-0.bytes": 120,
        "rx-0.discards": 1,
        "rx-1.no_buffer": 0,
        "tx-1.malicious": 0,
    }
    assert {key: counters[key] for key in expected} == expected


def test_port_counts_from_its_own_side() -> None:
    port = Segment(f"port{os.getpid()}", stats.PORT_ROWS)
    try:
        port.rows[0, 1] = 3
        port.rows[1, 1] = 4
        counted = stats.eth_stats(port)
        assert (counted.rx_unicast, counted.tx_unicast) == (3, 4)
    finally:
        port.close()


def test_rows_of_pairs_that_the_device_has_not_are_left_out_while_they_are_zero(
    segment: Segment,
) -> None:
    segment.num_pairs = 1
    view = SegmentView(segment.ident)
    assert {key.split(".")[0] for key in stats.named(view) if "." in key} == {"rx-0", "tx-0"}
    segment.rows[segment.row("tx-1"), 0] = 5
    assert {key.split(".")[0] for key in stats.named(view) if "." in key} == {
        "rx-0",
        "tx-0",
        "tx-1",
    }
    segment.num_pairs = 0
    assert "rx-1.packets" in stats.named(view)
