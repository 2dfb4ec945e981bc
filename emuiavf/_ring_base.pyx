"""A VF's data-path half, its memory: what workers use, where the guest's registers lie, and how
what control replaces is published and freed.

See _ring.pyx for the whole.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from emuiavf._atomic cimport store_seq_ptr
from emuiavf._dma cimport MemTable
from emuiavf._ring_irq cimport vf_poll
from emuiavf._ring_put cimport vf_put
from emuiavf._ring_state cimport RingState, RxRun, RxSet, TxRun, Vector, VfRun
from emuiavf._ring_tx cimport tx_done, tx_take
from emuiavf._ring_watch cimport RegisterWatch
from emuiavf.datapath._endpoint cimport Endpoint, SourceRef
from emuiavf.datapath._flow cimport FLOW_RULES
from emuiavf.datapath._frame cimport BURST_BYTES, ETHER_VLAN, ROW_COUNTERS


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
    MAX_QUEUE_PAIRS = 256
    MAX_VECTORS = 65


cdef class VfBase(Endpoint):
    """mem: the guest's memory.  doorbells: a writable buffer of at least 0x4000 bytes laid out as
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
        self._retire(self.run.rx_set)
        store_seq_ptr(<void **>&self.run.rx_set, fresh)

    cdef void _retire(self, const void *table):
        self._retired.append(<size_t>table)

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
