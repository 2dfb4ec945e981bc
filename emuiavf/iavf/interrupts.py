"""The interrupt registers of BAR0: causes of vector 0, arming and moderation of every vector.

Arming, moderation and the eventfds are the data path's, which may use vector 0 for queues too;
a register write that comes as a message is passed on to it.
"""

from collections.abc import Callable
from typing import Protocol

from emuiavf.iavf import regs
from emuiavf.iavf.bar0 import Bar0
from emuiavf.iavf.regs import Icr0
from emuiavf.pci.regs import Register


class VectorControl(Protocol):
    """The data path's vectors, 0 the admin queue's; `wake` says that a doorbell came by message."""

    def write_dyn_ctl(self, vector: int, value: int) -> None: ...
    def read_dyn_ctl(self, vector: int) -> int: ...
    def write_itr(self, index: int, vector: int, value: int) -> None: ...
    def read_itr(self, index: int, vector: int) -> int: ...
    def raise_vector(self, vector: int) -> None: ...
    def wake(self) -> None: ...


class InterruptRegisters:
    """Hooks itself into `bar0`; `control` is None while no data path is there.

    The cause ADMINQ is latched always and raises vector 0 when it is enabled.  DPDK's alarm
    disables it and acts on the latch alone; FreeBSD's handler disables it until its task has run,
    so an event of that time is raised when it is enabled again.
    """

    def __init__(self, bar0: Bar0, num_vectors: int) -> None:
        self.control: VectorControl | None = None
        self._file = bar0.file
        self._num_vectors = num_vectors
        self._missed = False
        bar0.on_write[regs.VFINT_ICR0_ENA1.offset] = self._on_enable_written
        bar0.before_read[regs.VFINT_ICR01.offset] = self._on_cause_read
        bar0.on_write[regs.VFINT_DYN_CTL01.offset] = self._on_dyn_ctl01
        bar0.before_read[regs.VFINT_DYN_CTL01.offset] = self._load_dyn_ctl01
        for index in range(regs.NUM_ITR):
            at = regs.VFINT_ITR01.at(index)
            bar0.on_write[at] = self._itr01_writer(index)
            bar0.before_read[at] = self._itr01_reader(index)
        bar0.on_dyn_ctln = self._write_dyn_ctl
        bar0.on_doorbell = self._on_doorbell

    def on_delivered(self) -> None:
        """Messages are in the ARQ."""
        self._file.set(regs.VFINT_ICR01, self._file.get(regs.VFINT_ICR01) | Icr0.ADMINQ)
        self._missed = not self._is_enabled()
        if not self._missed and self.control is not None:
            self.control.raise_vector(0)

    def reset(self) -> None:
        """Forget events; the registers themselves are reset with BAR0 and by the data path."""
        self._missed = False

    def _is_enabled(self) -> bool:
        return bool(self._file.get(regs.VFINT_ICR0_ENA1) & Icr0.ADMINQ)

    def _on_enable_written(self) -> None:
        # Only what was missed, not the latch: DPDK in interrupt mode never reads that, and would
        # be interrupted for ever.
        if self._missed and self._is_enabled():
            self._missed = False
            if self.control is not None:
                self.control.raise_vector(0)

    def _on_cause_read(self) -> None:
        self._missed = False

    def _on_dyn_ctl01(self) -> None:
        self._write_dyn_ctl(0, self._file.get(regs.VFINT_DYN_CTL01))

    def _load_dyn_ctl01(self) -> None:
        if self.control is not None:
            self._file.set(regs.VFINT_DYN_CTL01, self.control.read_dyn_ctl(0))

    def _write_dyn_ctl(self, vector: int, value: int) -> None:
        if self.control is not None and vector < self._num_vectors:
            self.control.write_dyn_ctl(vector, value)

    def _itr01_writer(self, index: int) -> Callable[[], None]:
        register = _itr01(index)

        def write() -> None:
            if self.control is not None:
                self.control.write_itr(index, 0, self._file.get(register))

        return write

    def _itr01_reader(self, index: int) -> Callable[[], None]:
        register = _itr01(index)

        def load() -> None:
            if self.control is not None:
                self._file.set(register, self.control.read_itr(index, 0))

        return load

    def _on_doorbell(self) -> None:
        if self.control is not None:
            self.control.wake()


def _itr01(index: int) -> Register:
    return regs.REGISTERS[f"{regs.VFINT_ITR01.name}{index}"]
