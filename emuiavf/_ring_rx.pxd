"""See _ring_rx.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, Frame, FrameSink, Segment


cdef enum:
    RX_MAX_BUFFERS = 5      # descriptors per frame; drivers reserve room for five
    RX_ITEMS = 32           # deliveries prepared together


# One delivery that has its buffers: a frame, or one segment of a large frame.
cdef struct Item:
    Frame *frame
    uint32_t at            # payload offset of a segment
    uint32_t length        # bytes delivered, tag stripped
    uint32_t first         # of its pieces
    uint32_t pieces
    uint32_t strip


# A group of deliveries to one ring: prepared together, copied, then written back in order.
cdef struct Batch:
    Item items[RX_ITEMS]
    Segment pieces[RX_ITEMS * RX_MAX_BUFFERS]
    uint32_t num_items
    uint32_t num_pieces
    uint8_t *ring
    uint32_t slot          # next descriptor to be used
    uint32_t room
    uint32_t judge
    uint64_t bytes
    uint64_t cast[4]       # frames by the two flag bits: 0 unicast, 1 multicast, 3 broadcast
    uint64_t packets
    uint64_t csum_bad


# FrameSink.put of a VF.
cdef uint32_t vf_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil
