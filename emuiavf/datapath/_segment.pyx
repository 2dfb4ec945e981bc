"""Cutting large frames: bodies of _segment.pxd.

As in _offload, the private head of a frame is all that is read and written.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from emuiavf.datapath._frame cimport (
    FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_IPV4, L4_SCTP, L4_TCP, L4_UDP, Frame,
)
from emuiavf.datapath._offload cimport (
    Csum, csum_fold, csum_init, fill_ip_csum, frame_copy, frame_fill_ip_csum, frame_l4_range,
    frame_pseudo, load_be16, load_be32, store_be16, store_be32, store_u16,
)


cdef enum:
    TCP_FIN = 0x01
    TCP_PSH = 0x08
    TCP_CWR = 0x80


cdef uint32_t frame_segment_header(const Frame *frame, uint32_t at, uint8_t *out,
                                   uint32_t *payload) noexcept nogil:
    """See _segment.pxd.  The frame has passed frame_check_request."""
    cdef uint32_t header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
    cdef uint32_t left = frame.len - header - at
    cdef uint32_t size = min(left, <uint32_t>frame.mss)
    cdef uint8_t *ip = out + frame.l2_len
    cdef uint8_t *l4 = ip + frame.l3_len
    frame_copy(out, frame.head, header)
    payload[0] = size
    if frame.l4_proto == L4_TCP:
        store_be32(l4 + 4, load_be32(l4 + 4) + at)
        if size < left:
            l4[13] &= ~<uint8_t>(TCP_FIN | TCP_PSH)
        if at:
            l4[13] &= ~<uint8_t>TCP_CWR
        store_u16(l4 + 16, 0)
    else:
        store_be16(l4 + 4, <uint16_t>(8 + size))
        store_u16(l4 + 6, 0)
    size += frame.l3_len + frame.l4_len
    if frame.flags & FRAME_IPV4:
        store_be16(ip + 2, <uint16_t>size)
        store_be16(ip + 4, <uint16_t>(load_be16(ip + 4) + at // frame.mss))
        fill_ip_csum(ip, frame.l3_len)
    else:
        store_be16(ip + 4, <uint16_t>(size - 40))
    return header


cdef void frame_seed_partial(Frame *frame) noexcept nogil:
    """See _segment.pxd.  Drivers leave the lengths of a frame to be segmented 0; what is longer
    than a length field can say keeps 0.  SCTP has no partial form: it is left alone."""
    cdef uint8_t *ip = frame.head + frame.l2_len
    cdef uint32_t start, end, field, size = frame.len - frame.l2_len
    cdef Csum csum
    if frame.flags & FRAME_ASK_TSO:
        if frame.flags & FRAME_IPV4:
            store_be16(ip + 2, <uint16_t>size if size <= 0xFFFF else 0)
        else:
            store_be16(ip + 4, <uint16_t>(size - 40) if size - 40 <= 0xFFFF else 0)
        if frame.l4_proto == L4_UDP:
            size -= frame.l3_len
            store_be16(ip + frame.l3_len + 4, <uint16_t>size if size <= 0xFFFF else 0)
    if frame.flags & FRAME_ASK_IP_CSUM:
        frame_fill_ip_csum(frame)
    if (frame.l4_proto == L4_SCTP or not frame.flags & FRAME_ASK_L4_CSUM
            or not frame_l4_range(frame, &start, &end, &field)):
        return
    csum_init(&csum)
    frame_pseudo(frame, end - start, &csum)
    store_u16(frame.head + field, csum_fold(&csum))
