"""One queue pair of our driver: rings in DMA memory, frames as values, doorbells of both kinds."""

from collections.abc import Iterable

from emuiavf._rxdid import Rxdid
from emuiavf.guest._pmd import RxRing, TxRing, buffer_stride
from emuiavf.guest.bar import Bar0
from emuiavf.guest.frames import Frame, TxFrame
from emuiavf.guest.memory import Block, DmaMemory
from emuiavf.iavf import regs
from emuiavf.virtchnl.messages import QueuePair as QueuePairConfig
from emuiavf.virtchnl.ops import RxqFlag

TX_DESCRIPTOR = 16
RX_DESCRIPTOR = 32


class QueuePair:
    """Rings number `index`; each slot owns a buffer of `buf_size` bytes.

    `rxdid` is the format in which received frames are reported, `timestamps` whether their time is.
    """

    def __init__(
        self,
        index: int,
        bar: Bar0,
        memory: DmaMemory,
        ring_len: int,
        buf_size: int,
        rxdid: Rxdid = Rxdid.LEGACY,
        keep_crc: bool = False,
        timestamps: bool = False,
    ) -> None:
        self.index = index
        self._timestamps = timestamps
        self._keep_crc = keep_crc
        self._bar = bar
        self._memory = memory
        self._blocks: list[Block] = []
        buffers = ring_len * buffer_stride(buf_size)
        try:
            self._tx_ring = self._alloc(ring_len * TX_DESCRIPTOR)
            self._rx_ring = self._alloc(ring_len * RX_DESCRIPTOR)
            tx_buffers, rx_buffers = self._alloc(buffers), self._alloc(buffers)
        except MemoryError:
            self.free()
            raise
        tails = regs.QTX_TAIL1.at(index), regs.QRX_TAIL1.at(index)
        tx_tail, rx_tail = (bar.word(offset) for offset in tails)
        self.tx = TxRing(index, self._tx_ring, tx_buffers, ring_len, buf_size, tx_tail)
        self.rx = RxRing(index, self._rx_ring, rx_buffers, ring_len, buf_size, rx_tail, rxdid)
        self._sent_rx = self._sent_tx = 0
        self.flush_rx()

    def send(self, frames: Iterable[bytes | TxFrame]) -> int:
        """Send frames until the ring is full; returns how many it took.

        Every frame is reported done, so that its room comes back without a frame behind it.
        """
        count = 0
        for frame in frames:
            asked = TxFrame(frame) if isinstance(frame, bytes) else frame
            if not self.tx.put(asked.data, asked.fields, asked.context, report=True):
                break
            count += 1
        self.tx.ring_doorbell()
        self.flush_tx()
        return count

    def receive(self, limit: int = 256) -> list[Frame]:
        """The frames that have arrived, at most `limit`."""
        frames: list[Frame] = []
        rxdid = self.rx.rxdid
        while len(frames) < limit and (taken := self.rx.take()) is not None:
            frames.append(Frame.from_descriptor(taken[0], self.index, rxdid, *taken[1:]))
        if frames:
            self.rx.rearm()
            self.flush_rx()
        return frames

    def flush_rx(self) -> None:
        """Where doorbells trap: tell the device of posted buffers, and see it told."""
        if not self.rx.mapped and self.rx.tail != self._sent_rx:
            self._bar.write32(regs.QRX_TAIL1.at(self.index), self.rx.tail)
            self._sent_rx = self.rx.tail

    def flush_tx(self) -> None:
        """Where doorbells trap: tell the device of frames to send, without waiting."""
        if not self.tx.mapped and self.tx.tail != self._sent_tx:
            self._bar.write32(regs.QTX_TAIL1.at(self.index), self.tx.tail, posted=True)
            self._sent_tx = self.tx.tail

    def rewind(self) -> None:
        """Start over with empty rings and every buffer posted; the device must not use them."""
        self.tx.reset()
        self.rx.reset()
        # A reset has zeroed the device's copy, whatever was sent before it.
        self._sent_rx = self._sent_tx = 0
        self.flush_rx()

    def config(self, vsi_id: int, max_pkt_size: int) -> QueuePairConfig:
        """This pair's element of CONFIG_VSI_QUEUES."""
        return QueuePairConfig(
            tx_vsi_id=vsi_id,
            tx_queue_id=self.index,
            tx_ring_len=self.tx.ring_len,
            tx_headwb_enabled=0,
            tx_dma_ring_addr=self._tx_ring.iova,
            tx_dma_headwb_addr=0,
            rx_vsi_id=vsi_id,
            rx_queue_id=self.index,
            rx_ring_len=self.rx.ring_len,
            rx_hdr_size=0,
            rx_splithdr_enabled=0,
            rx_databuffer_size=self.rx.buf_size,
            rx_max_pkt_size=max_pkt_size,
            rx_crc_disable=int(self._keep_crc),
            rx_rxdid=self.rx.rxdid,
            rx_flags=RxqFlag.PTP_RX_TSTAMP if self._timestamps else 0,
            rx_dma_ring_addr=self._rx_ring.iova,
            rx_split_pos=0,
        )

    def free(self) -> None:
        """Give the memory back; the device must not use the rings any more."""
        for block in self._blocks:
            self._memory.free(block)
        self._blocks.clear()

    def _alloc(self, size: int) -> Block:
        block = self._memory.alloc(size)
        self._blocks.append(block)
        return block


def memory_needed(num_pairs: int, ring_len: int, buf_size: int) -> int:
    """Bytes of DMA memory that this many queue pairs take, page rounding included."""
    rings = ring_len * (TX_DESCRIPTOR + RX_DESCRIPTOR)
    return num_pairs * (rings + 2 * ring_len * buffer_stride(buf_size) + 4 * 4096)
