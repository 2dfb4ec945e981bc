"""See _ring_plain.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf._ring_state cimport Batch, RxRun, VfRun
from emuiavf.datapath._frame cimport ETHER_FCS, FRAME_MULTICAST, Burst, Frame


cdef inline void rx_account(Batch *batch, const Frame *frame, uint32_t length) noexcept nogil:
    """Received as the wire had it: with its tag and the FCS (GET_STATS counts so)."""
    batch.bytes += length + ETHER_FCS
    batch.cast[(frame.flags // FRAME_MULTICAST) & 3] += 1


# The queue stops, and control is told.
cdef void rx_fault(VfRun *vf, RxRun *rx, uint32_t fault) noexcept nogil

# Ask for what a put of `count` frames reads first; nothing depends on it.
cdef void rx_expect(const RxRun *rx, uint32_t count) noexcept nogil

# The first frames of `mask` as far as nothing has to be done to them but to copy them, each into a
# buffer of its own of `longest` bytes, and as far as the ring's end; returns the delivered ones.
cdef uint32_t rx_plain(VfRun *vf, RxRun *rx, Batch *batch, Burst *burst, uint32_t mask,
                       uint32_t longest) noexcept nogil

# The same for frames of one kind (frame_kind) and type, as far as it goes: none is no fault.
cdef uint32_t rx_alike(RxRun *rx, Batch *batch, Burst *burst, uint32_t mask, uint64_t kind,
                       uint32_t longest) noexcept nogil
