"""See _ring_rate.pyx."""

from libc.stdint cimport uint32_t
from emuiavf._ring_state cimport VfRun


# Hold all Tx rings of a VF together to so many Kb/s, 0 for no limit.
cdef void limit_vf(VfRun *vf, uint32_t rate) noexcept
# Promise all Tx rings of a VF together so many Kb/s, 0 for nothing.
cdef void promise_vf(VfRun *vf, uint32_t rate) noexcept
# Hold one ring to so many Kb/s, 0 for no limit, and to turns of so many bytes.
cdef void limit_ring(VfRun *vf, uint32_t index, uint32_t rate, uint32_t quantum) noexcept
