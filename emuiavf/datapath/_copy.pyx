"""The one place where frame bytes move: copy and checksum in one pass over the payload."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from emuiavf.datapath._frame cimport (
    ETHER_ADDRESSES, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_HEAD_MAX, FRAME_HEADROOM,
    FRAME_L4_BAD, FRAME_L4_GOOD, FRAME_TUNNEL, L4_SCTP, L4_UDP, Frame, Segment,
)
from emuiavf.datapath._offload cimport (
    Csum, crc32c_add, crc32c_final, csum_add, csum_add_copy, csum_fold, csum_init, frame_copy,
    frame_fill_ip_csum, frame_l4_range, frame_pseudo, frame_settle,
)
from emuiavf.datapath._segment cimport frame_segment_header
from emuiavf.datapath._tunnel cimport (
    Sealing, tunnel_begin, tunnel_body, tunnel_parts, tunnel_seal,
)


cdef struct Out:
    Segment *into
    uint32_t used      # bytes of into[0] that are written


cdef inline void _out(Out *out, const uint8_t *src, uint32_t count, Csum *csum) noexcept nogil:
    """Append bytes to the pieces, summed on the way when `csum` is given."""
    cdef uint32_t now
    while count:
        now = out.into.len - out.used
        if now > count:
            now = count
        if csum != NULL:
            csum_add_copy(csum, out.into.data + out.used, src, now)
        else:
            frame_copy(out.into.data + out.used, src, now)
        src += now
        count -= now
        out.used += now
        if out.used == out.into.len:
            out.into += 1
            out.used = 0


cdef inline void _out_head(Out *out, const uint8_t *head, uint32_t count,
                           uint32_t strip) noexcept nogil:
    if strip:
        _out(out, head, ETHER_ADDRESSES, NULL)
        _out(out, head + ETHER_ADDRESSES + strip, count - ETHER_ADDRESSES - strip, NULL)
    else:
        _out(out, head, count, NULL)


cdef void gather_begin(Gather *gather, const Frame *frame, uint32_t offset) noexcept nogil:
    gather.segs = frame.segs
    gather.segs_left = frame.num_segs
    gather.at = frame.head
    gather.left = frame.head_len
    while offset >= gather.left and gather.segs_left:
        offset -= gather.left
        gather.at = gather.segs.data
        gather.left = gather.segs.len
        gather.segs += 1
        gather.segs_left -= 1
    if offset > gather.left:
        offset = gather.left
    gather.at += offset
    gather.left -= offset


cdef void _gather_out(Gather *gather, Out *out, uint32_t count, Csum *csum) noexcept nogil:
    """Append `count` bytes (or what is left of the frame) to the pieces."""
    cdef const uint8_t *at = NULL
    cdef uint32_t now
    while count:
        now = gather_piece(gather, count, &at)
        if now == 0:
            return
        _out(out, at, now, csum)
        count -= now


cdef void _patch(const Segment *into, uint32_t offset, const uint8_t *src,
                 uint32_t count) noexcept nogil:
    """Overwrite bytes already written.  With inserted tags a header can reach into piece two."""
    cdef uint32_t i
    for i in range(count):
        while offset >= into.len:
            offset -= into.len
            into += 1
        into.data[offset] = src[i]
        offset += 1


cdef inline void _patch_csum(const Segment *into, uint32_t offset, const Csum *csum,
                             uint8_t l4_proto) noexcept nogil:
    cdef uint16_t value = <uint16_t>~csum_fold(csum)
    # RFC 768: a computed zero is sent as all ones, zero means "no checksum".
    if value == 0 and l4_proto == L4_UDP:
        value = 0xFFFF
    _patch(into, offset, <const uint8_t *>&value, 2)


cdef uint32_t _crc_pieces(const Segment *into, uint32_t start, uint32_t end) noexcept nogil:
    """CRC32c of bytes [start, end) of what was written to the pieces."""
    cdef uint32_t crc = 0xFFFFFFFF, now
    while start < end:
        if start >= into.len:
            start -= into.len
            end -= into.len
            into += 1
            continue
        now = into.len - start
        if now > end - start:
            now = end - start
        crc = crc32c_add(crc, into.data + start, now)
        start += now
    return crc32c_final(crc)


cdef uint32_t _emit_sctp(Frame *frame, uint32_t strip, Segment *into, uint32_t start, uint32_t end,
                         uint32_t field) noexcept nogil:
    """SCTP: the CRC is taken of the delivered bytes, so it judges exactly those."""
    cdef Out out
    cdef Gather gather
    cdef uint32_t sent, crc, zero = 0
    memcpy(&sent, frame.head + field, 4)
    memcpy(frame.head + field, &zero, 4)
    out.into = into
    out.used = 0
    _out_head(&out, frame.head, frame.head_len, strip)
    memcpy(frame.head + field, &sent, 4)
    gather_begin(&gather, frame, frame.head_len)
    _gather_out(&gather, &out, frame.len - frame.head_len, NULL)
    crc = _crc_pieces(into, start - strip, end - strip)
    if frame.flags & FRAME_ASK_L4_CSUM:
        _patch(into, field - strip, <const uint8_t *>&crc, 4)
        return FRAME_L4_GOOD
    _patch(into, field - strip, <const uint8_t *>&sent, 4)
    return FRAME_L4_GOOD if crc == sent else FRAME_L4_BAD


cdef uint32_t _emit_tunnel(const Frame *frame, uint32_t at, Gather *gather, uint32_t strip,
                           Segment *into, bint judge) noexcept nogil:
    """A packet in a packet, or its segment at `at`; `gather` stands behind its head."""
    cdef uint8_t head[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef Sealing sealing
    cdef Csum body
    cdef Out out
    cdef uint64_t sum
    cdef uint32_t within, rest, verdict, crc = 0, width = 2
    tunnel_begin(frame, at, judge, head, &sealing)
    tunnel_parts(&sealing, &within, &rest)
    tunnel_body(&sealing, &body)
    out.into = into
    out.used = 0
    _out_head(&out, head, sealing.head, strip)
    _gather_out(gather, &out, within, &body)
    sum = body.sum
    _gather_out(gather, &out, rest, &body)
    _gather_out(gather, &out, sealing.length - sealing.head - within - rest, NULL)
    if sealing.within.end and sealing.inner.l4_proto == L4_SCTP:
        crc = _crc_pieces(into, sealing.within.start - strip, sealing.within.end - strip)
        width = 4
    verdict = tunnel_seal(&sealing, head, sum, body.sum, crc)
    if sealing.within.end:
        _patch(into, sealing.within.field - strip, head + sealing.within.field, width)
    if sealing.outer.end:
        _patch(into, sealing.outer.field - strip, head + sealing.outer.field, 2)
    return verdict


cdef uint32_t emit_frame(Frame *frame, uint32_t strip, Segment *into, bint judge) noexcept nogil:
    cdef uint32_t start = 0, end = 0, field = 0, verdict, ask, summed
    cdef uint16_t zero = 0
    cdef Csum csum
    cdef Out out
    cdef Gather gather
    if frame.flags & FRAME_TUNNEL:
        gather_begin(&gather, frame, frame.head_len)
        return _emit_tunnel(frame, 0, &gather, strip, into, judge)
    if frame.num_segs == 0:
        frame_settle(frame, judge)
        out.into = into
        out.used = 0
        _out_head(&out, frame.head, frame.len, strip)
        return frame.flags & (FRAME_L4_GOOD | FRAME_L4_BAD)
    if frame.flags & FRAME_ASK_IP_CSUM:
        frame_fill_ip_csum(frame)
        frame.flags &= ~<uint32_t>FRAME_ASK_IP_CSUM
    ask = frame.flags & FRAME_ASK_L4_CSUM
    verdict = frame.flags & (FRAME_L4_GOOD | FRAME_L4_BAD)
    if (ask or (judge and not verdict)) and frame.l4_proto == L4_SCTP:
        if frame_l4_range(frame, &start, &end, &field):
            return _emit_sctp(frame, strip, into, start, end, field)
    if not ask and (verdict or not judge):
        summed = 0
    else:
        summed = frame_l4_range(frame, &start, &end, &field)
    out.into = into
    out.used = 0
    if summed and ask:
        memcpy(frame.head + field, &zero, 2)
    _out_head(&out, frame.head, frame.head_len, strip)
    gather_begin(&gather, frame, frame.head_len)
    if not summed:
        _gather_out(&gather, &out, frame.len - frame.head_len, NULL)
        return verdict
    csum_init(&csum)
    frame_pseudo(frame, end - start, &csum)
    if end <= frame.head_len:
        csum_add(&csum, frame.head + start, end - start)
        end = frame.head_len
    else:
        csum_add(&csum, frame.head + start, frame.head_len - start)
        _gather_out(&gather, &out, end - frame.head_len, &csum)
    # Behind the IP packet: Ethernet padding, which no checksum covers.
    _gather_out(&gather, &out, frame.len - end, NULL)
    if ask:
        _patch_csum(into, field - strip, &csum, frame.l4_proto)
        return FRAME_L4_GOOD
    return FRAME_L4_GOOD if csum_fold(&csum) == 0xFFFF else FRAME_L4_BAD


cdef uint32_t emit_whole(Frame *frame, uint8_t *into, bint judge) noexcept nogil:
    cdef uint32_t start, end, field, head_len = frame.head_len, rest, summed
    cdef const uint8_t *data
    cdef Csum csum
    frame_copy(into, frame.head, head_len)
    into += head_len
    data = frame.segs.data
    rest = frame.len - head_len
    if (not judge or frame.flags & (FRAME_L4_GOOD | FRAME_L4_BAD)
            or not frame_l4_range(frame, &start, &end, &field)):
        frame_copy(into, data, rest)
        return 0
    csum_init(&csum)
    frame_pseudo(frame, end - start, &csum)
    csum_add(&csum, frame.head + start, (head_len if end > head_len else end) - start)
    if end > head_len:
        summed = end - head_len
        csum_add_copy(&csum, into, data, summed)
        into += summed
        data += summed
        rest -= summed
    # Ethernet padding, which no checksum covers.
    frame_copy(into, data, rest)
    return FRAME_L4_GOOD if csum_fold(&csum) == 0xFFFF else FRAME_L4_BAD


cdef void emit_segment(Frame *frame, uint32_t at, Gather *gather, uint32_t strip,
                       Segment *into) noexcept nogil:
    cdef uint8_t header[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef uint32_t payload = 0, length, l4 = <uint32_t>frame.l2_len + frame.l3_len
    cdef Csum csum
    cdef Out out
    if frame.flags & FRAME_TUNNEL:
        _emit_tunnel(frame, at, gather, strip, into, False)
        return
    length = frame_segment_header(frame, at, header, &payload)
    out.into = into
    out.used = 0
    _out_head(&out, header, length, strip)
    csum_init(&csum)
    frame_pseudo(frame, length - l4 + payload, &csum)
    csum_add(&csum, header + l4, length - l4)
    _gather_out(gather, &out, payload, &csum)
    _patch_csum(into, l4 - strip + (6 if frame.l4_proto == L4_UDP else 16), &csum,
                frame.l4_proto)
