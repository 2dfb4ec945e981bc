"""One VF's data-path half: what control does to its rings, vectors and tables.

The loops are in _ring_tx, _ring_rx and _ring_irq.  They see hostile memory: every descriptor is
loaded once and the copy is judged, every address goes through mem_translate, every chain has a
bound.  What is malformed stops its queue (Fault), counts a malicious-driver event and signals the
fault eventfd; the rest goes on.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from emuiavf._atomic cimport (
    exchange_u32, load_relaxed_u32, load_seq_u32, or_u32, store_release_u32, store_seq_ptr,
    store_seq_u32, swap_if_u32,
)
from emuiavf._dma cimport MEM_READ, MEM_WRITE, Extent, MemTable, mem_translate
from emuiavf._eventfd cimport event_signal_foreign
from emuiavf._ring_irq cimport vector_event, vector_use, vf_poll, vf_wake
from emuiavf._ring_put cimport vf_put
from emuiavf._ring_rate cimport limit_ring, limit_vf, promise_vf
from emuiavf._ring_spoil cimport vf_put_spoilt
from emuiavf._ring_state cimport (
    DETAIL_FORMAT, DETAIL_STAMP, DYN_INTENA, DYN_INTENA_MSK, DYN_INTERVAL_SHIFT, DYN_ITR_MASK,
    DYN_ITR_NONE, DYN_ITR_SHIFT, DYN_SWINT_TRIG, EVENT_NOW, FAULT_NONE, LUT_SIZE, RX_DESC_SIZE,
    STRIP_INNER, TX_DESC_SIZE, RingState, RxRun, RxSet, TxRun, Vector, VfRun,
)
from emuiavf._ring_tx cimport tx_done, tx_take
from emuiavf._ring_watch cimport RegisterWatch
from emuiavf.datapath._endpoint cimport Endpoint, SourceRef
from emuiavf.datapath._flow cimport FLOW_RULES, FlowTable, HashTable, flow_build, hash_build
from emuiavf.datapath._frame cimport (
    BURST_BYTES, ETHER_FCS, ETHER_VLAN, ROW_COUNTERS, RxFilterTable,
)
from emuiavf.datapath._offload cimport ToeplitzKey, toeplitz_prepare, toeplitz_symmetric
from emuiavf.datapath._switch cimport filter_build

from emuiavf._rxdid import Rxdid
from emuiavf.emudev.info import DEFAULT_QUANTA, RxFilter
from emuiavf.errors import MemoryFault, StateError


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept


# How often a worker sweeps the vectors for software triggers in their words (trap 30), and how
# often where it also looks for control: drivers wait for their first answer for 20 ms and more.
cdef uint64_t SWEEP_NS = 4_000_000
cdef uint64_t WATCH_NS = 200_000

# Offsets in BAR0; the doorbell pages end at 0x4000.
cdef enum:
    QRX_TAIL = 0x2000
    VFINT_ITRN = 0x2800
    VFINT_DYN_CTLN = 0x3800
    VFINT_ITR0 = 0x4C00
    VFINT_DYN_CTL0 = 0x5C00
    ITR_VECTORS = 16        # beyond, ITRN words overlap: only DYN_CTLN sets an interval there
    FAULT_TOLD = 0x100      # beside a Fault: take_faults has told it; the queue stays stopped
    MAX_QUEUE_PAIRS = 256
    MAX_VECTORS = 65

# Mb/s that fit where Kb/s are kept.
cdef enum:
    KBPS = 1000
    MAX_RATE = 4_000_000

# Each has a writeback loop of its own.
cdef tuple COMMON_FORMATS = (Rxdid.LEGACY, Rxdid.FLEX_NIC, Rxdid.FLEX_OVS)

cdef tuple FAULT_TEXT = (
    "", "tail beyond the ring", "descriptor ring is not mapped", "buffer address is not mapped",
    "bad buffer length", "unknown descriptor type", "descriptor chain without an end",
)


cdef list _numbers(bitmap):
    """The bits that are set, ascending."""
    found = []
    while bitmap:
        low = bitmap & -bitmap
        found.append(low.bit_length() - 1)
        bitmap ^= low
    return found


cdef void _words(bitmap, uint64_t *words) except *:
    """A bitmap of queues as four words; bits beyond are left out."""
    cdef int k
    for k in range(MAX_QUEUE_PAIRS // 64):
        words[k] = bitmap >> 64 * k & 0xFFFF_FFFF_FFFF_FFFF


cdef class Vf(Endpoint):
    """The data-path half of one VF.  All methods are control's; none waits.

    What a method takes away may still be in use by a worker until the engine's next grace; then
    `reclaim()` frees it.

    mem: the guest's memory.  doorbells: a writable buffer of at least 0x4000 bytes laid out as
    pages 0 to 3 of BAR0.  rows: uint64 array (2 * max_queue_pairs, 16), receive rows first.
    fault_fd: eventfd, signalled when `take_faults()` has something to tell.  watch: registers that
    a worker looks at for control; `doorbells` is all of BAR0 then.
    """

    def __cinit__(self, *args, **kwargs):
        self.states = NULL
        self.rx = NULL
        self.tx = NULL
        self.far_itr = NULL
        memset(&self.run, 0, sizeof(VfRun))
        self._retired = []

    def __init__(self, str name, MemTable mem, doorbells, rows, int max_queue_pairs,
                 int num_vectors, int fault_fd, bint polled=True, bint judge=True,
                 RegisterWatch watch=None):
        cdef uint64_t[:, ::1] table = rows
        cdef Py_buffer view
        cdef int i, n = max_queue_pairs
        if not 1 <= n <= MAX_QUEUE_PAIRS or not 1 <= num_vectors <= MAX_VECTORS:
            raise ValueError(f"{n} queue pairs, {num_vectors} vectors: at most "
                             f"{MAX_QUEUE_PAIRS} and {MAX_VECTORS}")
        if table.shape[0] < 2 * n or table.shape[1] != ROW_COUNTERS:
            raise ValueError(f"rows: shape {table.shape[0]}x{table.shape[1]}, needs {2 * n}x16")
        PyObject_GetBuffer(doorbells, &view, PyBUF_WRITABLE)
        self._page = <uint8_t *>view.buf
        size = view.len
        # The memoryview keeps the buffer; the raw pointer lives as long as it does.
        self._doorbells = memoryview(doorbells)
        PyBuffer_Release(&view)
        needed = 0x4000 if watch is None else 0x9000
        if size < needed:
            raise ValueError(f"doorbells: {size} bytes, needs {needed}")
        self._watch = watch
        self.name = name
        self.polled = polled
        self.max_queue_pairs = n
        self.num_vectors = num_vectors
        self._mem = mem
        self._rows = rows
        self.states = <RingState *>calloc(2 * n, sizeof(RingState))
        self.rx = <RxRun *>calloc(n, sizeof(RxRun))
        self.tx = <TxRun *>calloc(n, sizeof(TxRun))
        self.run.vectors = <Vector *>calloc(num_vectors, sizeof(Vector))
        self.run.rx_set = <RxSet *>calloc(1, sizeof(RxSet))
        self.run.hits = <uint64_t *>calloc(FLOW_RULES, sizeof(uint64_t))
        self.far_itr = <uint32_t *>calloc(max(1, 3 * (num_vectors - 1 - ITR_VECTORS)),
                                          sizeof(uint32_t))
        if (self.states == NULL or self.rx == NULL or self.tx == NULL or self.run.vectors == NULL
                or self.run.rx_set == NULL or self.run.hits == NULL or self.far_itr == NULL):
            raise MemoryError
        self.run.sink.put = vf_put
        self.run.map = &mem.mem_map
        self.run.rx = self.rx
        self.run.tx = self.tx
        self.run.num_rx = n
        self.run.num_vectors = num_vectors
        self.run.used_vectors = 1
        self.run.outer_tpid = ETHER_VLAN
        self.run.judge = judge
        self.run.sweep_ns = SWEEP_NS
        if watch is not None:
            self.run.watch = &watch.watch
            self.run.sweep_ns = WATCH_NS
        self.run.fault_fd = fault_fd
        self.run.row = &table[0, 0]
        self.run.poller = &self.vf_poller.poller
        self.vf_poller.poller.poll = vf_poll
        self.vf_poller.vf = &self.run
        self.sink = &self.run.sink
        self.poller = &self.vf_poller.poller
        self.promise = &self.run.promise
        self._refs = []
        self._all = (<object>1 << n) - 1
        self._flow_ids = set()
        for i in range(n):
            self.rx[i].state = &self.states[i]
            self.rx[i].tail = <uint32_t *>(self._page + QRX_TAIL) + i
            self.rx[i].row = &table[i, 0]
            self.tx[i].source.take = tx_take
            self.tx[i].source.done = tx_done
            self.tx[i].source.fd = -1
            self.tx[i].budget = self.tx[i].quantum = BURST_BYTES
            self.tx[i].source.row = &table[n + i, 0]
            self.tx[i].state = &self.states[n + i]
            self.tx[i].tail = <uint32_t *>self._page + i
            self.tx[i].vf = &self.run
            self._refs.append(SourceRef.of(&self.tx[i].source, self, i))
        for i in range(num_vectors):
            self._init_vector(i)

    def _init_vector(self, int i):
        cdef Vector *vector = &self.run.vectors[i]
        cdef int k
        vector.fd = -1
        vector.rx_itr = vector.tx_itr = 3
        vector.row = self.rx[min(max(i - 1, 0), self.max_queue_pairs - 1)].row
        if i == 0 and self.run.watch != NULL:
            vector.ctl = <uint32_t *>(self._page + VFINT_DYN_CTL0)
        elif i == 0:
            vector.ctl = &self.vector0_words[0]
        else:
            vector.ctl = <uint32_t *>(self._page + VFINT_DYN_CTLN) + (i - 1)
        for k in range(3):
            if i == 0 and self.run.watch != NULL:
                vector.itr[k] = <uint32_t *>(self._page + VFINT_ITR0) + k
            elif i == 0:
                vector.itr[k] = &self.vector0_words[1 + k]
            elif i <= ITR_VECTORS:
                vector.itr[k] = <uint32_t *>(self._page + VFINT_ITRN + 0x40 * k) + (i - 1)
            else:
                vector.itr[k] = &self.far_itr[3 * (i - 1 - ITR_VECTORS) + k]

    def __dealloc__(self):
        self.reclaim()
        if self.run.rx_set != NULL:
            free(<void *>self.run.rx_set.key)
            free(<void *>self.run.rx_set.hashing)
            free(<void *>self.run.rx_set.rules)
        free(self.run.rx_set)
        free(<void *>self.run.sink.filter)
        free(self.run.vectors)
        free(self.far_itr)
        free(self.run.hits)
        free(self.states)
        free(self.rx)
        free(self.tx)

    cpdef list active_sources(self):
        return [ref for i, ref in enumerate(self._refs) if self.tx[<int>i].enabled]

    cdef int _index(self, int index) except -1:
        if not 0 <= index < self.max_queue_pairs:
            raise ValueError(f"queue {index}: {self.max_queue_pairs} queue pairs")
        return index

    cdef Vector *_vector(self, int vector) except NULL:
        if not 0 <= vector < self.num_vectors:
            raise ValueError(f"vector {vector}: {self.num_vectors} vectors")
        return &self.run.vectors[vector]

    cdef RxSet *_new_set(self) except NULL:
        """A copy of the published set, to be changed and published."""
        cdef RxSet *fresh = <RxSet *>calloc(1, sizeof(RxSet))
        if fresh == NULL:
            raise MemoryError
        fresh[0] = self.run.rx_set[0]
        return fresh

    cdef void _publish_set(self, RxSet *fresh):
        self._retired.append(<size_t>self.run.rx_set)
        store_seq_ptr(<void **>&self.run.rx_set, fresh)

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
        self._configure(state, queue)
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
        self._configure(state, queue)
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

    cdef int _configure(self, RingState *state, object queue) except -1:
        if not 8 <= queue.ring_len <= 8160:
            raise ValueError(f"ring_len={queue.ring_len}, 8 to 8160")
        state.dma_ring_addr = queue.dma_ring_addr
        state.ring_len = queue.ring_len
        state.head = 0
        state.cursor = 0
        state.configured = 1
        state.generation += 1
        return 0

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
        for i in _numbers(rx_queues & self._all):
            if self.rx[i].state.configured:
                self._check_ring("Rx", i, self.rx[i].state.dma_ring_addr,
                                 <uint64_t>self.rx[i].state.ring_len * RX_DESC_SIZE)
                starts[0].append(i)
        for i in _numbers(tx_queues & self._all):
            if self.tx[i].state.configured:
                self._check_ring("Tx", i, self.tx[i].state.dma_ring_addr,
                                 <uint64_t>self.tx[i].state.ring_len * TX_DESC_SIZE)
                starts[1].append(i)
        fresh = self._new_set()
        for i in starts[0]:
            fresh.enabled[i >> 6] |= <uint64_t>1 << (i & 63)
        self._count_enabled(fresh)
        self._publish_set(fresh)
        for i in starts[1]:
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
        cdef uint64_t rx[4]
        cdef int i
        _words(rx_queues, rx)
        for i in range(4):
            fresh.enabled[i] &= ~rx[i]
        for i in _numbers(tx_queues & self._all):
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
            self.rx[i].vector = self.tx[i].vector = NULL
            store_release_u32(self.rx[i].tail, 0)
            store_release_u32(self.tx[i].tail, 0)
        for i in range(self.num_vectors):
            store_seq_u32(self.run.vectors[i].ctl, 0)
            for k in range(3):
                store_release_u32(self.run.vectors[i].itr[<int>k], 0)
            exchange_u32(&self.run.vectors[i].events, 0)
            self.run.vectors[i].lost = 0
            self.run.vectors[i].rx_itr = self.run.vectors[i].tx_itr = 3
        store_release_u32(&self.run.used_vectors, 1)

    def map_vector(self, vmap) -> None:
        """Replace what `vmap.vector` announces."""
        cdef Vector *vector = self._vector(vmap.vector)
        cdef uint64_t rx[4]
        cdef uint64_t tx[4]
        cdef int i
        _words(vmap.rx_queues, rx)
        _words(vmap.tx_queues, tx)
        vector.rx_itr = vmap.rx_itr
        vector.tx_itr = vmap.tx_itr
        vector_use(&self.run, vmap.vector)
        for i in range(self.max_queue_pairs):
            if rx[i >> 6] >> (i & 63) & 1:
                self.rx[i].vector = vector
            elif self.rx[i].vector == vector:
                self.rx[i].vector = NULL
            if tx[i >> 6] >> (i & 63) & 1:
                self.tx[i].vector = vector
            elif self.tx[i].vector == vector:
                self.tx[i].vector = NULL

    def set_eventfd(self, int vector, int fd) -> None:
        """The eventfd of a vector (the caller's; -1 for none).  Close an old one after a grace."""
        self._vector(vector).fd = fd

    def set_filter(self, rx_filter) -> None:
        """Publish an emudev.info.RxFilter; a switch needs an engine publish as well."""
        cdef RxFilterTable *fresh = filter_build(rx_filter, self.policy)
        self._retired.append(<size_t>self.run.sink.filter)
        store_seq_ptr(<void **>&self.run.sink.filter, fresh)
        self.rx_filter = rx_filter

    cpdef object set_policy(self, policy):
        """What the host decided: see Engine.set_policy, which publishes the rest of it."""
        self.policy = policy
        promise_vf(&self.run, policy.min_rate * KBPS)
        self.set_filter(self.rx_filter or RxFilter())

    def set_rss(self, rss) -> None:
        """Publish key, lookup table, classes and chosen fields of emudev.info.RssConfig."""
        cdef RxSet *fresh
        cdef HashTable *hashing
        cdef ToeplitzKey *key
        cdef bytes lut = rss.lut
        cdef bytes raw = rss.key
        if len(raw) != 52 or len(lut) not in (64, 512):
            raise ValueError(f"RSS key of {len(raw)} bytes, LUT of {len(lut)}: 52, and 64 or 512")
        hashing = hash_build(rss)
        key = <ToeplitzKey *>calloc(1, sizeof(ToeplitzKey))
        if key == NULL:
            free(hashing)
            raise MemoryError
        toeplitz_prepare(key, <const uint8_t *>raw)
        if rss.symmetric:
            toeplitz_symmetric(key)
        fresh = self._new_set()
        self._retired.append(<size_t>fresh.key)
        self._retired.append(<size_t>fresh.hashing)
        fresh.key = key
        fresh.hashing = hashing
        fresh.chosen = hashing != NULL or fresh.rules != NULL
        fresh.hena = rss.hena
        lut *= LUT_SIZE // len(lut)
        memcpy(fresh.lut, <const uint8_t *>lut, LUT_SIZE)
        self._publish_set(fresh)

    def set_flows(self, rules) -> None:
        """Publish (emudev.info.FlowRule, ...) in the order in which they are to be tried.

        The counter of a rule begins when its id becomes known.
        """
        cdef FlowTable *table = flow_build(rules)
        cdef RxSet *fresh
        try:
            fresh = self._new_set()
        except MemoryError:
            free(table)
            raise
        ids = {rule.id for rule in rules}
        for number in ids - self._flow_ids:
            self.run.hits[<int>number] = 0
        self._flow_ids = ids
        if fresh.rules != NULL:
            self._retired.append(<size_t>fresh.rules)
        fresh.rules = table
        fresh.chosen = fresh.hashing != NULL or table != NULL
        self._publish_set(fresh)

    def flow_hits(self) -> dict[int, int]:
        """How many frames each rule has matched, by the rule's id."""
        return {number: self.run.hits[<int>number] for number in sorted(self._flow_ids)}

    def set_vlan(self, vlan) -> None:
        """Publish emudev.info.VlanOffload.  Insertion needs a TPID only: descriptors ask for it."""
        cdef RxSet *fresh = self._new_set()
        fresh.strip = <uint32_t>vlan.strip_outer << 16 | (STRIP_INNER if vlan.strip else 0)
        self.run.outer_tpid = vlan.insert_outer or ETHER_VLAN
        self._publish_set(fresh)

    def set_tx_shaping(self, shaping) -> None:
        """Hold each Tx ring to its own rate and turn of emudev.info.TxShaping.

        A worker that has begun a turn may end it by what was before.
        """
        cdef int i
        cdef uint32_t rate, quantum
        for i in range(self.max_queue_pairs):
            rate = shaping.peaks.get(i, 0)
            quantum = min(shaping.quanta.get(i, DEFAULT_QUANTA), DEFAULT_QUANTA)
            limit_ring(&self.run, i, rate, quantum * (BURST_BYTES // DEFAULT_QUANTA))

    def set_bus_master(self, bint enabled) -> None:
        """Off: after the next grace no byte of guest memory is touched and no vector fires.

        On: each vector that has fired fires once more.  A message is a DMA write too, and QEMU
        drops one that is still under way when bus mastering goes off; its driver, never called,
        would not arm the vector again.
        """
        cdef int v
        cdef bint was = self.run.bus_master
        store_seq_u32(&self.run.bus_master, enabled)
        if was or not enabled:
            return
        for v in range(self.num_vectors):
            if self.run.vectors[v].last_ns and self.run.vectors[v].fd >= 0:
                event_signal_foreign(self.run.vectors[v].fd)
        vf_wake(&self.run)

    @property
    def retired(self) -> int:
        """How many replaced tables wait for `reclaim()`."""
        return len(self._retired)

    def reclaim(self) -> None:
        """Free what was replaced; a grace must have passed."""
        if self._retired is not None:
            for pointer in self._retired:
                free(<void *><size_t>pointer)
            self._retired.clear()

    def write_dyn_ctl(self, int vector, uint32_t value) -> None:
        """A register write of DYN_CTL01 (vector 0) or DYN_CTLN1 that came as a message."""
        cdef Vector *v = self._vector(vector)
        cdef uint32_t old, fresh, index
        index = (value & DYN_ITR_MASK) >> DYN_ITR_SHIFT
        if index != 3:
            store_release_u32(v.itr[index], (value >> DYN_INTERVAL_SHIFT) & 0xFFF)
        if value & DYN_SWINT_TRIG:
            vector_use(&self.run, vector)
            or_u32(&v.events, EVENT_NOW)
        # A worker may disarm the vector meanwhile; a guest that writes the word without end as well
        # gets what it gets.
        for _try in range(8):
            old = load_seq_u32(v.ctl)
            fresh = (value & ~<uint32_t>DYN_SWINT_TRIG) | DYN_ITR_NONE
            if value & DYN_INTENA_MSK:
                fresh = (fresh & ~<uint32_t>DYN_INTENA) | (old & DYN_INTENA)
            if swap_if_u32(v.ctl, old, fresh):
                break
        vector_event(&self.run, v, 0, monotonic_ns())

    def read_dyn_ctl(self, int vector) -> int:
        return load_seq_u32(self._vector(vector).ctl)

    def write_itr(self, int index, int vector, uint32_t value) -> None:
        """ITR `index` (0 to 2) of a vector, in units of 2 us."""
        if not 0 <= index <= 2:
            raise ValueError(f"ITR index {index}: 0 to 2")
        store_release_u32(self._vector(vector).itr[index], value & 0xFFF)

    def read_itr(self, int index, int vector) -> int:
        if not 0 <= index <= 2:
            raise ValueError(f"ITR index {index}: 0 to 2")
        return load_relaxed_u32(self._vector(vector).itr[index])

    def raise_vector(self, int vector) -> None:
        """An event of control's own (admin queue): announced as soon as the guest has armed it."""
        vector_event(&self.run, self._vector(vector), EVENT_NOW, monotonic_ns())

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

    # What the host imposes.

    def set_rate(self, uint32_t max_rate) -> None:
        """Hold frames in the Tx rings so that all of them together send at most so many Mb/s; 0
        ends that.  A worker that has begun a turn may end it by the old limit."""
        if max_rate > MAX_RATE:
            raise ValueError(f"{max_rate} Mb/s: at most {MAX_RATE}")
        limit_vf(&self.run, max_rate * KBPS)

    @property
    def interrupts_left(self) -> int:
        """Interrupts still to be lost."""
        return load_relaxed_u32(&self.run.lose_irqs)

    @property
    def interrupts_missing(self) -> bool:
        """Whether a vector's interrupt was lost and not repeated."""
        return any(self.run.vectors[<int>v].lost for v in range(self.num_vectors))

    def lose_interrupts(self, uint32_t count) -> None:
        """Lose the next interrupts: the guest's vectors are disarmed, and nobody is told."""
        store_seq_u32(&self.run.lose_irqs, count)

    def repeat_interrupts(self) -> None:
        """Send what was lost, as `set_bus_master` does."""
        cdef int v
        for v in range(self.num_vectors):
            if (exchange_u32(&self.run.vectors[v].lost, 0) and self.run.bus_master
                    and self.run.vectors[v].fd >= 0):
                event_signal_foreign(self.run.vectors[v].fd)

    @property
    def corruptions_left(self) -> int:
        """Received frames still to be spoilt."""
        return load_relaxed_u32(&self.run.spoil)

    def corrupt_received(self, uint32_t count) -> None:
        """Turn a bit in each of the next received frames; see _ring_spoil."""
        store_seq_u32(&self.run.spoil, count)
        self.run.sink.put = vf_put_spoilt if count else vf_put

    @property
    def tx_hangs(self) -> bool:
        """Whether a Tx queue stands still because of `hang_tx`."""
        return any(self.tx[<int>i].fault == FAULT_TOLD for i in range(self.max_queue_pairs))

    def hang_tx(self, bint hang) -> None:
        """Have the Tx queues that are enabled stand still, until this ends it or they are
        configured anew."""
        cdef int i
        for i in range(self.max_queue_pairs):
            if not hang:
                swap_if_u32(&self.tx[i].fault, FAULT_TOLD, FAULT_NONE)
            elif self.tx[i].enabled:
                swap_if_u32(&self.tx[i].fault, FAULT_NONE, FAULT_TOLD)

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
