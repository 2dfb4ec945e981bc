"""See _ring_tx.pyx."""

from emuiavf.datapath._frame cimport Burst, Source


# Source.take and Source.done of a Tx ring.
cdef int tx_take(Source *source, Burst *burst) noexcept nogil
cdef void tx_done(Source *source, Burst *burst, int count) noexcept nogil
