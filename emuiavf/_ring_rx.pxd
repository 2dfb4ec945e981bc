"""See _ring_rx.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf._ring_state cimport RxRun, RxSet, VfRun
from emuiavf.datapath._frame cimport Burst, Frame


# Deliver the frames of `mask` to one ring, whose lock is held; returns the accepted ones.
# `kind`: of burst_judge, 0 when something has been done to the frames since.
cdef uint32_t rx_put(VfRun *vf, RxRun *rx, const RxSet *rx_set, Burst *burst, uint32_t mask,
                     uint64_t kind, uint32_t how, bint *moved) noexcept nogil

# Count the frames of `mask` as received and discarded.
cdef void rx_refuse(RxRun *rx, Burst *burst, uint32_t mask, int reason) noexcept nogil

# Descriptors that the driver has posted, not all of them if there are `wanted`; a tail beyond the
# ring reads as none.  With the lock of the ring: what was seen is remembered.
cdef uint32_t rx_room(RxRun *rx, uint32_t wanted) noexcept nogil

# Descriptors for a whole frame: all segments of one to be cut.
cdef uint32_t rx_wants(const RxRun *rx, const RxSet *rx_set, const Frame *frame) noexcept nogil
