from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from emuiavf.guest._pmd import RxRing, TxRing, buffer_stride
from emuiavf.guest.memory import DmaMemory
from tests.model.ring import Memory, RxModel, TxModel


@dataclass
class Loop:
    """A queue pair of the driver and the model device behind it."""

    tx: TxRing
    rx: RxRing
    tx_model: TxModel
    rx_model: RxModel

    def carry(self) -> int:
        """Loop every frame that was sent back; returns how many found room."""
        frames = self.tx_model.take(self.tx.tail)
        return sum(self.rx_model.put(self.rx.tail, frame.data) for frame in frames)

    def carry_all(self) -> list[bytes]:
        """Loop what was sent, taking each frame before the next; returns what was received."""
        received = []
        for frame in self.tx_model.take(self.tx.tail):
            assert self.rx_model.put(self.rx.tail, frame.data)
            while taken := self.rx.take():
                received.append(taken[0])
            self.rx.rearm()
        return received


@pytest.fixture
def memory() -> Iterator[DmaMemory]:
    with DmaMemory(4 << 20) as memory:
        yield memory


def make_loop(memory: DmaMemory, ring_len: int = 96, buf_size: int = 512) -> Loop:
    tx_ring, rx_ring = memory.alloc(16 * ring_len), memory.alloc(32 * ring_len)
    tx_buffers = memory.alloc(ring_len * buffer_stride(buf_size))
    rx_buffers = memory.alloc(ring_len * buffer_stride(buf_size))
    guest = Memory(memory.view, memory.iova)
    return Loop(
        TxRing(0, tx_ring, tx_buffers, ring_len, buf_size),
        RxRing(0, rx_ring, rx_buffers, ring_len, buf_size),
        TxModel(guest, tx_ring.iova, ring_len),
        RxModel(guest, rx_ring.iova, ring_len, buf_size),
    )


@pytest.fixture
def loop(memory: DmaMemory) -> Loop:
    return make_loop(memory)
