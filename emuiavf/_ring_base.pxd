"""See _ring_base.pyx."""

from libc.stdint cimport uint8_t, uint32_t
from emuiavf._ring_state cimport RingState, RxRun, RxSet, TxRun, Vector, VfPoller, VfRun
from emuiavf.datapath._endpoint cimport Endpoint


# Beside a Fault: it has been told, or the host wants it; the queue stays stopped.
cdef enum:
    FAULT_TOLD = 0x100


cdef class VfBase(Endpoint):
    cdef VfRun run
    cdef VfPoller vf_poller
    cdef RingState *states         # rx rings first, then tx rings
    cdef RxRun *rx
    cdef TxRun *tx
    cdef uint32_t vector0_words[4]
    cdef uint32_t *far_itr         # intervals of vectors whose ITRN words overlap others'
    cdef readonly int max_queue_pairs
    cdef readonly int num_vectors
    cdef object _mem
    cdef object _rows
    cdef object _doorbells
    cdef object _watch
    cdef uint8_t *_page
    cdef list _refs
    cdef list _retired             # tables that workers may still be using
    # A copy of the published set, to be changed and published.
    cdef RxSet *_new_set(self) except NULL
    cdef void _publish_set(self, RxSet *fresh)
    # Free it at the next reclaim().
    cdef void _retire(self, const void *table)
    # ValueError beyond the last.
    cdef Vector *_vector(self, int vector) except NULL
    cdef int _index(self, int index) except -1
