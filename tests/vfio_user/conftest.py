"""A served PCI function, and proof that no test leaks a descriptor."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emuiavf.loop import Loop
from emuiavf.vfio_user.server import Server
from tests.fakes.pci_function import PciFunction


def open_fds() -> dict[str, str]:
    """Every descriptor of this process and what it is."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def _no_fd_leaks() -> Iterator[None]:
    before = open_fds().items()
    yield
    if open_fds().items() - before:
        # What only a cycle keeps open is slow to go, not lost.
        gc.collect()
    assert not open_fds().items() - before


@pytest.fixture
def ops() -> Iterator[PciFunction]:
    function = PciFunction()
    yield function
    function.detached()
    function.close()


class Served:
    """A server whose loop runs in a thread of its own."""

    def __init__(self, ops: PciFunction, path: Path) -> None:
        self.path = path
        self.ops = ops
        self.loop = Loop()
        self.server = Server(self.loop, ops, path, "test")
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.server.close()
        self.loop.close()


@pytest.fixture
def served(ops: PciFunction, tmp_path: Path) -> Iterator[Served]:
    running = Served(ops, tmp_path / "vf.sock")
    yield running
    running.close()
