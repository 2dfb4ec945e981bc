"""Segmentation (TSO, USO) of frames that have passed frame_check_request."""

from libc.stdint cimport uint8_t, uint32_t
from emuiavf.datapath._frame cimport Frame


# TSO / USO.  Header of the segment that begins at payload offset `at` (a multiple of mss), written
# to `out` (FRAME_HEADROOM + FRAME_HEAD_MAX bytes): lengths, ids, sequence, flags, IPv4 checksum
# final; L4 checksum field 0.  Returns the header's length; *payload gets the payload's bytes.
cdef uint32_t frame_segment_header(const Frame *frame, uint32_t at, uint8_t *out,
                                   uint32_t *payload) noexcept nogil

# For a port that takes large frames whole (TAP): restores IP lengths in the head and seeds the L4
# checksum field with the pseudo header sum, as virtio-net wants it.
cdef void frame_seed_partial(Frame *frame) noexcept nogil
