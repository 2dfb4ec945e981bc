"""The null port: counts what comes and lets it go; brings in nothing."""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf.datapath._frame cimport Burst, FrameSink
from emuiavf.ports._port cimport Port, tally_accepted


cdef struct NullOut:
    FrameSink sink
    uint64_t *row


cdef uint32_t null_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil:
    tally_accepted(burst, mask, (<NullOut *>sink).row)
    return mask


cdef class Null(Port):
    """A sink that counts and drops."""

    OPTIONS = {}

    cdef NullOut _out

    def __init__(self, str name, dict values, rows=None):
        super().__init__(name, rows)
        self._out.sink.put = null_put
        self._out.row = self.rx_row
        self.sink = &self._out.sink
