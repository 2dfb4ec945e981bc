"""Packets in packets: bodies of _tunnel.pxd.

Like _offload, this reads and writes the private head of a frame only.  What a frame cannot say in
its 64 bytes, where the inner headers are, is read from the head again for each delivery: it was
found right when the frame was taken, and does not change.
RFC 7348 (VXLAN), 8926 (GENEVE), 2784 and 2890 (GRE), 2003 and 2473 (IP in IP).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from emuiavf.datapath._frame cimport (
    FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_IPV4, FRAME_IPV6, FRAME_L4_BAD,
    FRAME_L4_GOOD, L4_NONE, L4_SCTP, L4_UDP, TUNNEL_ASK_IP_CSUM, TUNNEL_EIPT, TUNNEL_EIPT_IPV6,
    TUNNEL_GRE, TUNNEL_KEEP_ID, TUNNEL_L4_SHIFT, TUNNEL_NONE, TUNNEL_TYPE, TUNNEL_UDP, Frame,
)
from emuiavf.datapath._offload cimport (
    Csum, csum_add, csum_fold_u64, csum_init, csum_plus, frame_check_tso, frame_copy,
    frame_fill_ip_csum, frame_l4_range, frame_pseudo, load_be16, store_be16, store_u16, store_u32,
)
from emuiavf.datapath._segment cimport frame_segment_header
from emuiavf.datapath._walk cimport (
    IP_UDP, KINDS, KIND_FRAGMENT, KIND_L4, walk_ipv4, walk_ipv6,
)


cdef enum:
    IP_IPV4 = 4
    IP_IPV6 = 41
    IP_GRE = 47

    GRE_MIN = 4
    # Flags of a GRE header that are followed by four bytes each: checksum, key, sequence number.
    GRE_CSUM = 0x8000
    GRE_KEY = 0x2000
    GRE_SEQ = 0x1000


cdef uint32_t walk(const uint8_t *ip, uint32_t room, uint32_t *flags,
                   uint32_t *l3_len) noexcept nogil:
    """Kind and header length of an IP packet, and FRAME_IPV4 or FRAME_IPV6 in `flags`."""
    l3_len[0] = 0
    if ip[0] >> 4 == 4:
        flags[0] |= FRAME_IPV4
        return walk_ipv4(ip, room, l3_len)
    flags[0] |= FRAME_IPV6
    return walk_ipv6(ip, room, l3_len)


cdef uint32_t protocol_of(const uint8_t *ip, uint32_t l3_len) noexcept nogil:
    """The protocol behind headers that walk() has found right."""
    cdef uint32_t at = 40, protocol = ip[6]
    if ip[0] >> 4 == 4:
        return ip[9]
    while at < l3_len:
        protocol = ip[at]
        at += (ip[at + 1] + 1) * 8
    return protocol


cdef uint32_t ip_end(const Frame *frame) noexcept nogil:
    """Where an IP packet says that it ends."""
    cdef const uint8_t *ip = frame.head + frame.l2_len
    if frame.flags & FRAME_IPV4:
        return frame.l2_len + load_be16(ip + 2)
    return <uint32_t>frame.l2_len + 40 + load_be16(ip + 4)


cdef uint32_t inner_of(const Frame *frame, Frame *inner) noexcept nogil:
    """The frame as it looks from its inner packet: all that is in front of that is its L2 header.

    Returns the kind of the inner packet, or KINDS if there is none.
    """
    cdef uint32_t at = <uint32_t>frame.l2_len + frame.l3_len + frame.tunnel_len
    cdef uint32_t flags = frame.flags & FRAME_ASK_TSO, l3_len, kind
    kind = walk(frame.head + at, frame.head_len - at, &flags, &l3_len)
    inner[0] = frame[0]
    if kind == KINDS:
        return KINDS
    inner.l2_len = <uint16_t>at
    inner.l3_len = <uint16_t>l3_len
    inner.l4_len = <uint16_t>(frame.l4_len - frame.tunnel_len - l3_len)
    inner.l4_proto = KIND_L4[kind]
    if frame.tunnel & TUNNEL_ASK_IP_CSUM:
        flags |= FRAME_ASK_IP_CSUM
    if frame.tunnel >> TUNNEL_L4_SHIFT:
        flags |= FRAME_ASK_L4_CSUM
    inner.flags = flags
    return kind


cdef bint is_tunnel(const Frame *frame, uint32_t protocol) noexcept nogil:
    """Whether the bytes behind the outer IP header are the tunnel that the sender calls them."""
    cdef const uint8_t *at = frame.head + frame.l2_len + frame.l3_len
    cdef uint32_t kind = frame.tunnel & TUNNEL_TYPE, size = frame.tunnel_len, flags
    if kind == TUNNEL_UDP:
        return protocol == IP_UDP and size >= 8
    if kind == TUNNEL_GRE:
        if protocol != IP_GRE or size < GRE_MIN:
            return False
        flags = load_be16(at)
        return size >= GRE_MIN + 4 * (<uint32_t>(flags & GRE_CSUM != 0) + (flags & GRE_KEY != 0)
                                      + (flags & GRE_SEQ != 0))
    if kind != TUNNEL_NONE or size:
        return False
    if at[0] >> 4 == 4:
        return protocol == IP_IPV4
    return protocol == IP_IPV6


cdef bint is_whole(const Frame *frame, const Frame *inner) noexcept nogil:
    """Whether the inner packet lies in the tunnel, and that in the outer packet and the frame."""
    cdef uint32_t start = <uint32_t>frame.l2_len + frame.l3_len, end = ip_end(frame), inside
    if end > frame.len:
        return False
    if frame.tunnel & TUNNEL_TYPE == TUNNEL_UDP:
        inside = start + load_be16(frame.head + start + 4)
        if inside > end:
            return False
        end = inside
    inside = ip_end(inner)
    return inside <= end and inside >= <uint32_t>inner.l2_len + inner.l3_len


cdef int frame_check_tunnel(Frame *frame, uint32_t l3_len) noexcept nogil:
    """See _tunnel.pxd."""
    cdef const uint8_t *ip = frame.head + frame.l2_len
    cdef uint32_t flags = frame.flags & ~<uint32_t>(FRAME_IPV4 | FRAME_IPV6)
    cdef uint32_t at = <uint32_t>frame.l2_len + frame.l3_len + frame.tunnel_len
    cdef uint32_t kind, found, asked = frame.tunnel >> TUNNEL_L4_SHIFT, start, end, field
    cdef Frame inner
    if frame.l2_len < 14 or at >= frame.head_len:
        return 1
    kind = walk(ip, frame.head_len - frame.l2_len, &flags, &found)
    if kind == KINDS or kind == KIND_FRAGMENT or found != frame.l3_len:
        return 1
    if (frame.tunnel & TUNNEL_EIPT == TUNNEL_EIPT_IPV6) != (flags & FRAME_IPV6 != 0):
        return 1
    if not is_tunnel(frame, protocol_of(ip, found)):
        return 1
    if flags & FRAME_ASK_L4_CSUM and frame.tunnel & TUNNEL_TYPE != TUNNEL_UDP:
        return 1
    frame.l4_proto = L4_UDP if frame.tunnel & TUNNEL_TYPE == TUNNEL_UDP else L4_NONE
    frame.l4_len += <uint16_t>(frame.tunnel_len + l3_len)
    kind = inner_of(frame, &inner)
    if kind == KINDS or inner.l3_len != l3_len:
        return 1
    if inner.flags & FRAME_IPV6 and inner.flags & FRAME_ASK_IP_CSUM:
        return 1
    if asked and asked != inner.l4_proto:
        return 1
    if flags & FRAME_ASK_TSO:
        # Outer and inner lengths change, so both checksums of IPv4 do.
        if flags & FRAME_IPV4:
            flags |= FRAME_ASK_IP_CSUM
        frame.flags = flags
        return not asked or frame_check_tso(&inner)
    frame.flags = flags
    if not is_whole(frame, &inner):
        return 1
    if flags & FRAME_ASK_L4_CSUM and not frame_l4_range(frame, &start, &end, &field):
        return 1
    return asked and not frame_l4_range(&inner, &start, &end, &field)


cdef void correct_outer(const Frame *frame, uint8_t *head, uint32_t size,
                        uint32_t number) noexcept nogil:
    """Lengths and IPv4 id of the outer packet of segment `number`; `size` bytes from IP on."""
    cdef uint8_t *ip = head + frame.l2_len
    if frame.flags & FRAME_IPV4:
        store_be16(ip + 2, <uint16_t>size)
        if not frame.tunnel & TUNNEL_KEEP_ID:
            store_be16(ip + 4, <uint16_t>(load_be16(ip + 4) + number))
    else:
        store_be16(ip + 4, <uint16_t>(size - 40))
    if frame.tunnel & TUNNEL_TYPE == TUNNEL_UDP:
        store_be16(ip + frame.l3_len + 4, <uint16_t>(size - frame.l3_len))


cdef void cover(const Frame *frame, Covered *covered) noexcept nogil:
    if not frame_l4_range(frame, &covered.start, &covered.end, &covered.field):
        covered.end = 0


cdef void tunnel_begin(const Frame *frame, uint32_t at, bint judge, uint8_t *head,
                       Sealing *sealing) noexcept nogil:
    """See _tunnel.pxd."""
    cdef Frame *outer = &sealing.frame
    cdef Frame *inner = &sealing.inner
    cdef uint32_t payload = 0
    outer[0] = frame[0]
    inner_of(frame, inner)
    if frame.flags & FRAME_ASK_TSO:
        sealing.head = frame_segment_header(inner, at, head, &payload)
        sealing.source = sealing.head + at
        sealing.length = sealing.head + payload
        correct_outer(frame, head, sealing.length - frame.l2_len, at // frame.mss)
    else:
        frame_copy(head, frame.head, frame.head_len)
        sealing.head = sealing.source = frame.head_len
        sealing.length = frame.len
    outer.head = inner.head = head
    outer.head_len = inner.head_len = <uint16_t>sealing.head
    outer.len = inner.len = sealing.length
    if inner.flags & FRAME_ASK_IP_CSUM:
        frame_fill_ip_csum(inner)
    if outer.flags & FRAME_ASK_IP_CSUM:
        frame_fill_ip_csum(outer)
    sealing.within.end = sealing.outer.end = 0
    if inner.flags & FRAME_ASK_L4_CSUM:
        cover(inner, &sealing.within)
    sealing.judged = not outer.flags & FRAME_ASK_L4_CSUM
    if not sealing.judged or judge:
        cover(outer, &sealing.outer)
    if sealing.within.end:
        if inner.l4_proto == L4_SCTP:
            store_u32(head + sealing.within.field, 0)
        else:
            store_u16(head + sealing.within.field, 0)
    if sealing.outer.end and not sealing.judged:
        store_u16(head + sealing.outer.field, 0)


cdef void tunnel_parts(const Sealing *sealing, uint32_t *within, uint32_t *outer) noexcept nogil:
    """See _tunnel.pxd."""
    cdef uint32_t first = max(sealing.head, sealing.within.end)
    within[0] = first - sealing.head
    outer[0] = max(first, sealing.outer.end) - first


cdef void tunnel_body(const Sealing *sealing, Csum *body) noexcept nogil:
    """See _tunnel.pxd.  All headers begin at even offsets of the frame."""
    csum_init(body)
    body.odd = sealing.head & 1


cdef uint64_t sum_of(const Frame *frame, const Covered *covered, uint64_t body) noexcept nogil:
    """Of what a checksum covers, pseudo header included."""
    cdef Csum csum
    csum_init(&csum)
    csum_add(&csum, frame.head + covered.start,
             min(covered.end, <uint32_t>frame.head_len) - covered.start)
    frame_pseudo(frame, covered.end - covered.start, &csum)
    return csum_plus(csum.sum, body)


cdef uint32_t tunnel_seal(const Sealing *sealing, uint8_t *head, uint64_t within, uint64_t outer,
                          uint32_t crc) noexcept nogil:
    """See _tunnel.pxd.  The inner checksum is part of what the outer one covers."""
    cdef uint16_t value
    cdef uint64_t sum
    if sealing.within.end:
        if sealing.inner.l4_proto == L4_SCTP:
            store_u32(head + sealing.within.field, crc)
        else:
            value = ~csum_fold_u64(sum_of(&sealing.inner, &sealing.within, within))
            # RFC 768: a computed zero is sent as all ones, zero means "no checksum".
            if value == 0 and sealing.inner.l4_proto == L4_UDP:
                value = 0xFFFF
            store_u16(head + sealing.within.field, value)
    if not sealing.outer.end:
        return 0
    sum = sum_of(&sealing.frame, &sealing.outer, outer)
    if sealing.judged:
        return FRAME_L4_GOOD if csum_fold_u64(sum) == 0xFFFF else FRAME_L4_BAD
    value = ~csum_fold_u64(sum)
    store_u16(head + sealing.outer.field, value if value else 0xFFFF)
    return FRAME_L4_GOOD
