"""Eventfds of others: added to whatever their mode and their counter, by any thread."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator

import pytest

from emuiavf import _eventfd

FULL = (1 << 64) - 2
"""The highest counter that a write can make."""

pytestmark = pytest.mark.skipif(not _eventfd.uses_aio(), reason="this kernel has no AIO to spare")


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def set_blocking(fd: int, blocking: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    flags = flags & ~os.O_NONBLOCK if blocking else flags | os.O_NONBLOCK
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def test_signals_are_counted(eventfd: int) -> None:
    for _ in range(1000):  # more than a context has room for
        _eventfd.signal(eventfd)
    assert os.eventfd_read(eventfd) == 1000


def test_a_full_and_blocking_one_takes_a_signal_at_once(eventfd: int) -> None:
    os.eventfd_write(eventfd, FULL)
    for _ in range(3):
        _eventfd.signal(eventfd)
    # No write makes this value: a signal was added where a writer would still be waiting.
    assert os.eventfd_read(eventfd) == FULL + 1


def test_what_is_no_eventfd_gets_no_more_than_a_write_that_does_not_wait() -> None:
    reading, writing = os.pipe()
    set_blocking(writing, False)
    _eventfd.signal(writing)
    os.close(writing)
    os.close(reading)
    _eventfd.signal(writing)


def test_a_client_that_fills_and_unblocks_it_meanwhile_stops_nobody(eventfd: int) -> None:
    """It empties the counter, so that a poll finds room, and fills it before a write comes."""
    done = threading.Event()

    def play() -> None:
        while not done.is_set():
            set_blocking(eventfd, False)
            try:
                os.eventfd_read(eventfd)
                os.eventfd_write(eventfd, FULL)
            except BlockingIOError:
                pass
            set_blocking(eventfd, True)

    player = threading.Thread(target=play, daemon=True)
    player.start()
    for _ in range(20_000):
        _eventfd.signal(eventfd)
    done.set()
    player.join()


def test_every_thread_has_its_own_and_leaves_nothing_behind(eventfd: int) -> None:
    def count() -> int:
        with open("/proc/self/maps") as maps:
            return sum("[aio]" in line for line in maps)

    before = count()
    counted = []

    def use() -> None:
        _eventfd.signal(eventfd)
        counted.append(count())

    for _ in range(5):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        # join() returns a little before the kernel's thread has ended.
        end = time.monotonic() + 10
        while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < end:
            time.sleep(0.001)
    assert os.eventfd_read(eventfd) == 5
    assert counted == [before + 1] * 5
    assert count() == before
