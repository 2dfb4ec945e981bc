"""The control loop: one thread, one epoll, timers, and a wake-up that other threads may use.

Knows file descriptors and callbacks, nothing else.  A callback may be called once too often (its
descriptor was ready when the wait ended, an earlier callback then emptied it), so every callback
reads without blocking.  An exception leaves `run`: callbacks catch what they expect.
"""

import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from heapq import heapify, heappop, heappush

Callback = Callable[[], None]

# A peer that has gone wakes readers and writers alike: both find out by trying.
_GONE = select.EPOLLHUP | select.EPOLLERR
_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_MAX_EVENTS = 32


class Timer:
    """One pending `call_later`."""

    __slots__ = ("_loop", "callback", "deadline")

    def __init__(self, loop: "Loop", deadline: float, callback: Callback) -> None:
        self.deadline = deadline
        self.callback: Callback | None = callback
        self._loop = loop

    def __lt__(self, other: "Timer") -> bool:
        return self.deadline < other.deadline

    def cancel(self) -> None:
        """The callback will not be called (again); harmless when it already was."""
        if self.callback is not None:
            self.callback = None
            self._loop._timer_cancelled()


class Loop:
    """Calls back when descriptors are ready and timers are due.

    Everything belongs to the thread that runs the loop, except `call_soon_threadsafe` and
    `stop`, which any thread and any signal handler may call.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._cancelled = 0
        self._soon: deque[Callback] = deque()
        self._stopping = False
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.add_reader(self._wakeup, self._on_wakeup)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` when `fd` can be read or its peer has gone; replaces an earlier one."""
        known = fd in self._readers or fd in self._writers
        self._readers[fd] = callback
        self._watch(fd, known)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be written, or its peer has gone; likewise."""
        known = fd in self._readers or fd in self._writers
        self._writers[fd] = callback
        self._watch(fd, known)

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._watch(fd, True)

    def remove_writer(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            self._watch(fd, True)

    def remove(self, fd: int) -> None:
        """Forget `fd`.  To be called before it is closed; harmless when it is not known."""
        known = self._readers.pop(fd, None) is not None
        known = self._writers.pop(fd, None) is not None or known
        if known:
            self._watch(fd, True)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` once, `seconds` from now or up to a millisecond later."""
        timer = Timer(self, self.now() + seconds, callback)
        heappush(self._timers, timer)
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call `callback` in the loop's thread; wakes the loop."""
        self._soon.append(callback)
        os.eventfd_write(self._wakeup, 1)

    def now(self) -> float:
        """The loop's clock, in seconds; only differences mean something."""
        return time.monotonic()

    def run(self) -> None:
        """Serve until `stop` is called; returns at once when it was called before."""
        with self._woken_by_signals():
            while not self._stopping:
                self.run_once(None)
        self._stopping = False

    def stop(self) -> None:
        """Make `run` return after the callbacks that are due now."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)

    def run_once(self, timeout_s: float | None) -> None:
        """Wait once, at most `timeout_s` (None: for ever), and call everything that is due."""
        if self._timers:
            due_s = max(0.0, self._timers[0].deadline - time.monotonic())
            timeout_s = due_s if timeout_s is None else min(timeout_s, due_s)
        for fd, events in self._epoll.poll(timeout_s, _MAX_EVENTS):
            # Looked up at the time of the call: an earlier callback may have removed it.
            if events & (_IN | _GONE):
                reader = self._readers.get(fd)
                if reader is not None:
                    reader()
            if events & (_OUT | _GONE):
                writer = self._writers.get(fd)
                if writer is not None:
                    writer()
        if self._timers:
            self._run_timers()

    def close(self) -> None:
        """Release the loop's own descriptors; those of the callers stay theirs."""
        self._epoll.close()
        if self._wakeup >= 0:
            os.close(self._wakeup)
            self._wakeup = -1

    def _watch(self, fd: int, known: bool) -> None:
        events = (_IN if fd in self._readers else 0) | (_OUT if fd in self._writers else 0)
        if not events:
            self._epoll.unregister(fd)
        elif known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    @contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """Have a signal end the wait, so that Python gets to its handler.

        By itself it does not when it comes just before the wait, or in another thread.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.add_reader(ours, lambda: _drain(ours))
        # Full is as good as one byte.
        previous = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            self.remove(ours)
            os.close(ours)
            os.close(theirs)

    def _on_wakeup(self) -> None:
        # The counter first: a callback appended after this read writes it again.
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].deadline <= now:
            timer = heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
            else:
                callback()

    def _timer_cancelled(self) -> None:
        # Cancelled timers leave the heap when due, or here when they are the most of it.
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapify(self._timers)
            self._cancelled = 0


def _drain(pipe: int) -> None:
    with suppress(BlockingIOError):
        os.read(pipe, 64)
