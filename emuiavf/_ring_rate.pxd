"""See _ring_rate.pyx."""

from emuiavf.datapath._frame cimport Burst, Source


# Source.take and Source.done of a Tx ring of a VF with a rate limit.
cdef int tx_take_limited(Source *source, Burst *burst) noexcept nogil
cdef void tx_done_limited(Source *source, Burst *burst, int count) noexcept nogil
