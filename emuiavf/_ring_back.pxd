"""See _ring_back.pyx."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf._ring_state cimport Batch, RingState
from emuiavf.datapath._frame cimport Frame


# `count` frames of one buffer each, from the head on and before the ring's end, of a batch with
# marks or details; `kinds` have their flags, with the verdicts found while copying, in the upper
# half.
cdef void write_back_plain(const RingState *state, const Batch *batch, Frame *const *frames,
                           const uint64_t *kinds, uint32_t count) noexcept nogil

# The items of a batch, and the head moves behind them; `verdicts` (FRAME_L4_*) one for each.
cdef void write_back(RingState *state, const Batch *batch, const uint32_t *verdicts) noexcept nogil
