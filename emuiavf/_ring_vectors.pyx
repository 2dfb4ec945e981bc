"""A VF's data-path half, its vectors: what they announce, how they are armed and moderated."""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf._atomic cimport (
    exchange_u32, load_relaxed_u32, load_seq_u32, or_u32, store_release_u32, store_seq_u32,
    swap_if_u32,
)
from emuiavf._eventfd cimport event_signal_foreign
from emuiavf._ring_base cimport VfBase
from emuiavf._ring_irq cimport vector_event, vector_use, vf_wake
from emuiavf._ring_state cimport (
    DYN_INTENA, DYN_INTENA_MSK, DYN_INTERVAL_SHIFT, DYN_ITR_MASK, DYN_ITR_NONE, DYN_ITR_SHIFT,
    DYN_SWINT_TRIG, EVENT_NOW, Vector,
)


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept


cdef void _words(bitmap, uint64_t *words) except *:
    """A bitmap of queues as four words; bits beyond are left out."""
    cdef int k
    for k in range(4):
        words[k] = bitmap >> 64 * k & 0xFFFF_FFFF_FFFF_FFFF


cdef class VfVectors(VfBase):
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

    cdef void _forget_vectors(self):
        cdef int i
        for i in range(self.max_queue_pairs):
            self.rx[i].vector = self.tx[i].vector = NULL
        for i in range(self.num_vectors):
            store_seq_u32(self.run.vectors[i].ctl, 0)
            for k in range(3):
                store_release_u32(self.run.vectors[i].itr[<int>k], 0)
            exchange_u32(&self.run.vectors[i].events, 0)
            self.run.vectors[i].lost = 0
            self.run.vectors[i].rx_itr = self.run.vectors[i].tx_itr = 3
        store_release_u32(&self.run.used_vectors, 1)
