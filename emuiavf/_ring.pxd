"""The iavf endpoint: one VF's rings, vectors and tables as control handles them."""

from libc.stdint cimport uint8_t, uint32_t
from emuiavf._ring_state cimport RingState, RxRun, RxSet, TxRun, Vector, VfPoller, VfRun
from emuiavf.datapath._endpoint cimport Endpoint


cdef class Vf(Endpoint):
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
    cdef object _all               # bitmap of all queues
    cdef list _retired
    cdef set _flow_ids
    cdef RxSet *_new_set(self) except NULL
    cdef void _publish_set(self, RxSet *fresh)
    cdef Vector *_vector(self, int vector) except NULL
    cdef int _index(self, int index) except -1
    cdef int _configure(self, RingState *state, object queue) except -1
    cdef void _count_enabled(self, RxSet *fresh)
