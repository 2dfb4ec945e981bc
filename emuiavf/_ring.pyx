"""One VF's data-path half: what control does to its rings, vectors and tables.

`Vf` is made of one class a purpose, each a module: memory (_ring_base), vectors (_ring_vectors),
tables (_ring_tables), what the host imposes (_ring_host) and, here, the rings.

The loops are in _ring_tx, _ring_rx and _ring_irq.  They see hostile memory: every descriptor is
loaded once and the copy is judged, every address goes through mem_translate, every chain has a
bound.  What is malformed stops its queue (Fault), counts a malicious-driver event and signals the
fault eventfd; the rest goes on.
"""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf._atomic cimport load_seq_u32, store_release_u32, store_seq_u32
from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemTable, mem_translate
from emuiavf._ring_base cimport FAULT_TOLD
from emuiavf._ring_host cimport VfHosted
from emuiavf._ring_state cimport (
    DETAIL_FORMAT, DETAIL_STAMP, FAULT_NONE, RX_DESC_SIZE, TX_DESC_SIZE, RingState, RxSet,
)
from emuiavf.datapath._frame cimport ETHER_FCS

from emuiavf._rxdid import Rxdid
from emuiavf.errors import MemoryFault, StateError


# Each has a writeback loop of its own.
cdef tuple COMMON_FORMATS = (Rxdid.LEGACY, Rxdid.FLEX_NIC, Rxdid.FLEX_OVS)

cdef tuple FAULT_TEXT = (
    "", "tail beyond the ring", "descriptor ring is not mapped", "buffer address is not mapped",
    "bad buffer length", "unknown descriptor type", "descriptor chain without an end",
)


cdef list _numbers(bitmap, int count):
    """The bits that are set, ascending; those from `count` on are left out."""
    found = []
    bitmap &= (<object>1 << count) - 1
    while bitmap:
        low = bitmap & -bitmap
        found.append(low.bit_length() - 1)
        bitmap ^= low
    return found


cdef int _configure(RingState *state, object queue) except -1:
    if not 8 <= queue.ring_len <= 8160:
        raise ValueError(f"ring_len={queue.ring_len}, 8 to 8160")
    state.dma_ring_addr = queue.dma_ring_addr
    state.ring_len = queue.ring_len
    state.head = 0
    state.cursor = 0
    state.configured = 1
    state.generation += 1
    return 0


cdef class Vf(VfHosted):
    """The data-path half of one VF.  All methods are control's; none waits.

    What a method takes away may still be in use by a worker until the engine's next grace; then
    `reclaim()` frees it.
    """

    def configure_tx(self, queue) -> None:
        """Lay out a Tx ring that is not enabled; the head starts at 0.

        So does the tail (trap 22), unless the ring is the first since a VF reset: iavf of 6.1 lets
        its stack send before it configures the queues, and that doorbell comes only once.
        """
        cdef int i = self._index(queue.index)
        cdef RingState *state = self.tx[i].state
        if self.tx[i].enabled:
            raise StateError(f"Tx queue {i} is enabled")
        again = state.configured
        _configure(state, queue)
        self.tx[i].fault = FAULT_NONE
        self.tx[i].source.held_since = 0
        if again:
            store_release_u32(self.tx[i].tail, 0)

    def forget_tx_tails(self) -> None:
        """A driver begins: what stands in the tails of rings that it has yet to configure is of
        the one before, or of its own time before it noticed a reset."""
        cdef int i
        for i in range(self.max_queue_pairs):
            if not self.tx[i].state.configured:
                store_release_u32(self.tx[i].tail, 0)

    def configure_rx(self, queue) -> None:
        """Lay out a Rx ring that is not enabled; head starts at 0, the tail is kept (trap 22)."""
        cdef int i = self._index(queue.index)
        cdef RingState *state = self.rx[i].state
        if self.rx_enabled >> i & 1:
            raise StateError(f"Rx queue {i} is enabled")
        Rxdid(queue.writeback)  # ValueError for what is not served
        if queue.databuffer_size < 128:
            raise ValueError(f"databuffer_size={queue.databuffer_size}, at least 128")
        _configure(state, queue)
        state.databuffer_size = queue.databuffer_size
        state.max_pkt_size = queue.max_pkt_size
        state.writeback = queue.writeback
        state.fcs = ETHER_FCS if queue.keep_crc else 0
        state.details = 0
        if queue.writeback not in COMMON_FORMATS:
            state.details |= DETAIL_FORMAT
        if queue.timestamps and queue.writeback != Rxdid.LEGACY:
            state.details |= DETAIL_STAMP
        self.rx[i].fault = FAULT_NONE

    def _check_ring(self, str what, int i, uint64_t address, uint64_t size):
        cdef const Extent *hint = NULL
        if mem_translate((<MemTable>self._mem).mem_map, &hint, address, size,
                         MEM_READ | MEM_WRITE) == NULL:
            raise MemoryFault(f"{what} queue {i}: ring at IOVA {address:#x}, {size} bytes, is not "
                              "in shared guest memory")

    def enable(self, rx_queues: int, tx_queues: int) -> None:
        """Start the queues of two bitmaps that are configured; others are skipped.

        MemoryFault when a ring is not in mapped memory; then none is started.  The Tx queues are
        served after the engine's next publish.
        """
        cdef RxSet *fresh
        cdef int i
        starts = [[], []]
        for i in _numbers(rx_queues, self.max_queue_pairs):
            if self.rx[i].state.configured:
                self._check_ring("Rx", i, self.rx[i].state.dma_ring_addr,
                                 <uint64_t>self.rx[i].state.ring_len * RX_DESC_SIZE)
                starts[0].append(i)
        for i in _numbers(tx_queues, self.max_queue_pairs):
            if self.tx[i].state.configured:
                self._check_ring("Tx", i, self.tx[i].state.dma_ring_addr,
                                 <uint64_t>self.tx[i].state.ring_len * TX_DESC_SIZE)
                starts[1].append(i)
        fresh = self._new_set()
        for i in starts[0]:
            if not fresh.enabled[i >> 6] >> (i & 63) & 1:
                self.rx[i].known_tail = self.rx[i].state.head
            fresh.enabled[i >> 6] |= <uint64_t>1 << (i & 63)
        self._count_enabled(fresh)
        self._publish_set(fresh)
        for i in starts[1]:
            if not self.tx[i].enabled:
                self.tx[i].known_tail = self.tx[i].state.head
            store_seq_u32(&self.tx[i].enabled, 1)

    cdef void _count_enabled(self, RxSet *fresh):
        cdef int i
        fresh.any = sum(bin(fresh.enabled[k]).count("1") for k in range(4))
        fresh.extracts = 0
        for i in range(self.max_queue_pairs):
            if fresh.enabled[i >> 6] >> (i & 63) & 1 and Rxdid(self.rx[i].state.writeback).extracts:
                fresh.extracts = 1

    def disable(self, rx_queues: int, tx_queues: int) -> None:
        """Stop queues; after the next grace no worker touches their rings."""
        cdef RxSet *fresh = self._new_set()
        cdef int i
        for i in _numbers(rx_queues, self.max_queue_pairs):
            fresh.enabled[i >> 6] &= ~(<uint64_t>1 << (i & 63))
        for i in _numbers(tx_queues, self.max_queue_pairs):
            store_seq_u32(&self.tx[i].enabled, 0)
        self._count_enabled(fresh)
        self._publish_set(fresh)

    def forget(self) -> None:
        """After `disable` and a grace: nothing is configured or mapped, the registers are 0."""
        cdef int i
        for i in range(2 * self.max_queue_pairs):
            self.states[i].configured = 0
            self.states[i].cursor = 0
        for i in range(self.max_queue_pairs):
            self.rx[i].fault = self.tx[i].fault = FAULT_NONE
            store_release_u32(self.rx[i].tail, 0)
            store_release_u32(self.tx[i].tail, 0)
        self._forget_vectors()

    def take_faults(self) -> list[tuple[str, int, str]]:
        """(direction, queue, reason) of queues stopped since the last call.

        A stopped queue moves no frame until it is configured again.
        """
        cdef int i
        cdef uint32_t fault
        faults = []
        for i in range(self.max_queue_pairs):
            for direction, word in (("rx", <size_t>&self.rx[i].fault),
                                    ("tx", <size_t>&self.tx[i].fault)):
                # A worker writes the word once, when it is 0: what is seen here is ours to mark.
                fault = load_seq_u32(<uint32_t *><size_t>word)
                if fault and not fault & FAULT_TOLD:
                    faults.append((direction, i, FAULT_TEXT[fault]))
                    store_seq_u32(<uint32_t *><size_t>word, fault | FAULT_TOLD)
        return faults

    @property
    def rx_enabled(self) -> int:
        """Bitmap of enabled Rx queues."""
        return sum(self.run.rx_set.enabled[k] << (64 * k) for k in range(4))

    @property
    def tx_enabled(self) -> int:
        """Bitmap of enabled Tx queues."""
        return sum(1 << i for i in range(self.max_queue_pairs) if self.tx[<int>i].enabled)

    def ring_state(self, str direction, int index) -> dict[str, int]:
        """One queue's RingState by field name."""
        cdef RingState *state = (self.rx[self._index(index)].state if direction == "rx"
                                 else self.tx[self._index(index)].state)
        return state[0]
