"""The MSI-X vectors of one function as eventfds: who owns them, what a mask does to them.

A worker signals an eventfd and knows no mask.  A masked vector therefore gets a stand-in, an
eventfd of ours that remembers the event (its pending bit) until the mask is lifted: the trick
that VMMs use on us.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence


def signal(eventfd: int) -> None:
    """Add 1 to an eventfd; one that is full is pending already."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(eventfd, 1)


def _drain(eventfd: int) -> bool:
    """Whether the eventfd held an event; it is empty afterwards."""
    try:
        return os.eventfd_read(eventfd) > 0
    except BlockingIOError:
        return False


class Vectors:
    """Eventfds by vector.

    `push(vector, fd)` tells the data path which one to signal; when it has returned, the one
    before is not used any more.
    """

    def __init__(self, count: int, push: Callable[[int, int | None], None]) -> None:
        self.count = count
        self._push = push
        self._fds: list[int | None] = [None] * count
        self._stand_ins: dict[int, int] = {}

    def replace(self, start: int, fds: Sequence[int | None]) -> None:
        """New eventfds for the vectors from `start`; they are ours from now on, also on error."""
        assert 0 <= start <= self.count - len(fds)
        for vector, fd in enumerate(fds, start):
            old, self._fds[vector] = self._fds[vector], fd
            if vector not in self._stand_ins:
                self._push(vector, fd)
            if old is not None:
                os.close(old)

    def drop(self) -> None:
        """No vector has an eventfd or a mask any more."""
        self.replace(0, [None] * self.count)
        self.set_masked(())

    def set_masked(self, masked: Iterable[int]) -> None:
        """Exactly these vectors are masked now; what came meanwhile for the others is sent."""
        wanted = set(masked)
        for vector in wanted - self._stand_ins.keys():
            stand_in = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._stand_ins[vector] = stand_in
            self._push(vector, stand_in)
        for vector in self._stand_ins.keys() - wanted:
            stand_in = self._stand_ins.pop(vector)
            self._push(vector, self._fds[vector])
            if _drain(stand_in):
                self.trigger((vector,))
            os.close(stand_in)

    def pending(self) -> list[int]:
        """The masked vectors that hold an event."""
        found = [vector for vector, fd in self._stand_ins.items() if _drain(fd)]
        for vector in found:
            signal(self._stand_ins[vector])
        return found

    def trigger(self, vectors: Iterable[int]) -> None:
        """Signal these vectors now, or when their mask is lifted."""
        for vector in vectors:
            fd = self._stand_ins.get(vector, self._fds[vector])
            if fd is not None:
                signal(fd)
