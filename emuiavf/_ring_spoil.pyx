"""Received frames with a bit that is wrong, for those who write drivers.

The bit is turned in the private head, the last byte of it, before the device judges the frame: what
has a checksum arrives marked as bad.  A checksum that its sender has left to the device stays
undone.  Frames to be segmented are left alone.  Afterwards the burst is as it was, for the next
destination.
"""

from libc.stdint cimport uint32_t

from emuiavf._atomic cimport add_u32, load_relaxed_u32, take_one
from emuiavf._bits cimport lowest_bit
from emuiavf._ring_put cimport vf_put
from emuiavf._ring_state cimport VfRun
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_HASHED, FRAME_IP_BAD,
    FRAME_L4_BAD, FRAME_L4_GOOD, FRAME_PARSED, FRAME_TUNNEL, Burst, Frame, FrameSink,
)


cdef enum:
    KNOWN = (FRAME_PARSED | FRAME_HASHED | FRAME_IP_BAD | FRAME_L4_BAD | FRAME_L4_GOOD
             | FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_TUNNEL)


cdef uint32_t vf_put_spoilt(FrameSink *sink, Burst *burst, uint32_t mask,
                            uint32_t how) noexcept nogil:
    cdef VfRun *vf = <VfRun *>sink
    cdef Frame kept[BURST_FRAMES]
    cdef uint32_t spoilt = 0, left = mask, accepted
    cdef Frame *frame
    cdef int i
    while left and load_relaxed_u32(&vf.spoil):
        i = lowest_bit(left)
        left &= left - 1
        frame = &burst.frames[i]
        if frame.flags & FRAME_ASK_TSO or not take_one(&vf.spoil):
            continue
        spoilt |= <uint32_t>1 << i
        kept[i] = frame[0]
        frame.flags &= ~<uint32_t>KNOWN
        frame.head[frame.head_len - 1] ^= 1
    accepted = vf_put(sink, burst, mask, how)
    left = spoilt
    while left:
        i = lowest_bit(left)
        left &= left - 1
        frame = &burst.frames[i]
        frame.head[frame.head_len - 1] ^= 1
        # What its sender asked for, lengths included, has been overwritten by what was parsed.
        frame[0] = kept[i]
        if not accepted >> i & 1:
            # It comes again.
            add_u32(&vf.spoil, 1)
    return accepted
