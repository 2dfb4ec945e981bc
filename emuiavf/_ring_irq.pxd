"""See _ring_irq.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf._ring_state cimport Vector, VfRun
from emuiavf.datapath._frame cimport Poller


# Something happened that `vector` announces; what cannot be announced now stays waiting.
cdef void vector_event(VfRun *vf, Vector *vector, uint32_t event, uint64_t now) noexcept nogil
# Poller.poll of a VF: interval ends, re-armed vectors, software triggers.
cdef uint64_t vf_poll(Poller *poller, uint64_t now) noexcept nogil
# From now on a worker looks at the vector of this number when something waits.
cdef void vector_use(VfRun *vf, uint32_t number) noexcept nogil
# Let the worker that polls this VF look at its vectors.
cdef void vf_wake(VfRun *vf) noexcept nogil
