"""See _ring_back.pyx.  Both move the ring's head behind what they hand over."""

from libc.stdint cimport uint32_t
from emuiavf._ring_state cimport Batch, RingState
from emuiavf.datapath._frame cimport Frame


# `count` frames of one buffer each; `flags` are theirs, with the verdicts found while copying.
cdef void write_back_plain(RingState *state, const Batch *batch, Frame *const *frames,
                           const uint32_t *flags, uint32_t count) noexcept nogil

# The items of a batch; `verdicts` (FRAME_L4_*) one for each.
cdef void write_back(RingState *state, const Batch *batch, const uint32_t *verdicts) noexcept nogil
