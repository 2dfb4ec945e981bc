"""See _ring_tx.pyx."""

from libc.stdint cimport uint32_t
from emuiavf._ring_state cimport TxRun
from emuiavf.datapath._frame cimport Burst, Source


# Source.take and Source.done of a Tx ring.
cdef int tx_take(Source *source, Burst *burst) noexcept nogil
cdef void tx_done(Source *source, Burst *burst, int count) noexcept nogil

# Descriptors to be served, at least those of a burst if there are as many; 0 where the ring is not
# served at all.  Its own worker's: what was seen is remembered.
cdef uint32_t tx_posted(TxRun *tx) noexcept nogil
