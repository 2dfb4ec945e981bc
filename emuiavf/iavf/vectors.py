"""The interrupts of one function as eventfds: who owns them, what a mask does to them.

A worker signals an eventfd and knows no mask.  A masked vector therefore gets a stand-in, an
eventfd of ours that remembers the event (its pending bit) until the mask is lifted: the trick
that VMMs use on us.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from emuiavf._eventfd import signal
from emuiavf.pci.msix import Msix, MsixLayout


def _drain(eventfd: int) -> bool:
    """Whether the eventfd held an event; it is empty afterwards."""
    try:
        return os.eventfd_read(eventfd) > 0
    except BlockingIOError:
        return False


class Vectors:
    """Eventfds by vector.

    `push({vector: fd})` tells the data path which ones to signal; when it has returned, those
    before are not used any more.  However many change at once, it is called once.
    """

    def __init__(self, count: int, push: Callable[[Mapping[int, int | None]], None]) -> None:
        self.count = count
        self._push = push
        self._fds: list[int | None] = [None] * count
        self._pushed: list[int | None] = [None] * count
        self._masked: frozenset[int] = frozenset()
        self._stand_ins: dict[int, int] = {}  # of vectors that are masked and have an eventfd

    def replace(self, start: int, fds: Sequence[int | None]) -> None:
        """New eventfds for the vectors from `start`; they are ours from now on, also on error."""
        end = start + len(fds)
        assert 0 <= start <= end <= self.count
        old, self._fds[start:end] = self._fds[start:end], fds
        self._arrange(range(start, end))
        for fd in old:
            if fd is not None:
                os.close(fd)

    def drop(self) -> None:
        """No vector has an eventfd any more."""
        self.replace(0, [None] * self.count)

    def close(self) -> None:
        """Close every eventfd; the data path is gone."""
        for fd in (*self._fds, *self._stand_ins.values()):
            if fd is not None:
                os.close(fd)
        self._fds = [None] * self.count
        self._stand_ins.clear()

    def set_masked(self, masked: Iterable[int]) -> None:
        """Exactly these vectors are masked now; what came meanwhile for the others is sent."""
        old, self._masked = self._masked, frozenset(masked)
        self._arrange(old ^ self._masked)

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

    def _arrange(self, vectors: Iterable[int]) -> None:
        """Put stand-ins in front of eventfds or take them away, as masks say; then push it."""
        changes: dict[int, int | None] = {}
        given_up: dict[int, int] = {}
        for vector in vectors:
            fd = self._fds[vector]
            if fd is None or vector not in self._masked:
                if vector in self._stand_ins:
                    given_up[vector] = self._stand_ins.pop(vector)
            elif vector not in self._stand_ins:
                # No descriptors left: an interrupt too many is better than one too few.
                with contextlib.suppress(OSError):
                    self._stand_ins[vector] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            front = self._stand_ins.get(vector, fd)
            if front != self._pushed[vector]:
                self._pushed[vector] = changes[vector] = front
        if changes:
            self._push(changes)
        for vector, stand_in in given_up.items():
            if _drain(stand_in):
                self.trigger((vector,))
            os.close(stand_in)


class MsixVectors(Vectors):
    """Vectors behind the MSI-X table of a BAR, which clients with a table of their own ignore.

    A vector is masked by SET_IRQS, or by the table and the function mask while MSI-X is enabled.
    Enabling is not asked for: like the kernel's VFIO, an eventfd alone is enough.
    """

    def __init__(
        self, layout: MsixLayout, push: Callable[[Mapping[int, int | None]], None]
    ) -> None:
        super().__init__(layout.num_vectors, push)
        self._msix = Msix(layout, lambda vector: None)
        self._masked_by_client: set[int] = set()

    def read(self, offset: int, count: int) -> bytes:
        """Table and pending bits, at `offset` of their BAR."""
        self._msix.pending = sum(1 << vector for vector in self.pending())
        return self._msix.read(offset, count)

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write to their BAR."""
        self._msix.write(offset, data)
        self._update()

    def set_control(self, enabled: bool, function_mask: bool) -> None:
        """The two bits of message control."""
        self._msix.set_control(enabled, function_mask)
        self._update()

    def mask_by_client(self, vectors: Iterable[int], masked: bool) -> None:
        """SET_IRQS with MASK or UNMASK."""
        if masked:
            self._masked_by_client.update(vectors)
        else:
            self._masked_by_client.difference_update(vectors)
        self._update()

    def reset(self) -> None:
        """The table as after power-on; eventfds and the client's masks stay."""
        self._msix.reset()
        self._update()

    def drop(self) -> None:
        """No eventfds, and no mask by the client."""
        self._masked_by_client.clear()
        super().drop()
        self._update()

    def _update(self) -> None:
        by_guest = filter(self._msix.is_masked, range(self.count)) if self._msix.enabled else ()
        self.set_masked(self._masked_by_client.union(by_guest))
