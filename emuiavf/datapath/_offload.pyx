"""Parsing, requests, checksums and hashing of frames: bodies of _offload.pxd.

Everything here reads and writes the private head of a frame only and holds no state.  A header that
does not lie wholly inside the head is unknown, and what cannot be known is never called wrong.
Packet types: Intel's table, where IPv4 is 22 + kind and IPv6 is 88 + kind.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from emuiavf._bits cimport lowest_bit
from emuiavf.datapath._frame cimport (
    ETHER_VLAN, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_FRAGMENT,
    FRAME_HASHED, FRAME_IPV4, FRAME_IPV6, FRAME_IP_BAD, FRAME_L4_BAD, FRAME_L4_GOOD, FRAME_MAX_LEN,
    FRAME_PARSED, FRAME_TAGGED, FRAME_TUNNEL, L4_NONE, L4_SCTP, L4_TCP, L4_UDP, Burst, Frame,
)
from emuiavf.datapath._judge cimport (
    FRAME_ASKED, FRAME_FOUND, PlainWish, plain_judge, plain_parse,
)
from emuiavf.datapath._toeplitz cimport ToeplitzKey, toeplitz_hash
from emuiavf.datapath._walk cimport (
    KINDS, KIND_FRAGMENT, KIND_HENA, KIND_L4, KIND_OTHER, KIND_TCP, KIND_UDP, L4_FIELD, L4_IP,
    L4_MIN, likely, unlikely, walk_ipv4, walk_ipv6,
)


cdef enum:
    PTYPE_ETHER = 1
    PTYPE_PTP = 2
    PTYPE_LLDP = 6
    PTYPE_ARP = 11
    PTYPE_IPV4 = 22
    PTYPE_IPV6 = 88

    ETHER_IPV4 = 0x0800
    ETHER_ARP = 0x0806
    ETHER_IPV6 = 0x86DD
    ETHER_QINQ = 0x88A8
    ETHER_LLDP = 0x88CC
    ETHER_PTP = 0x88F7
    ETHER_QINQ_OLD = 0x9100

    MAX_TAGS = 2
    # 255 KiB in pieces of 64 bytes, the smallest MSS drivers use (Linux, FreeBSD).
    MAX_SEGMENTS = 4096


cdef inline bint is_tag(uint32_t ethertype) noexcept nogil:
    return ethertype == ETHER_VLAN or ethertype == ETHER_QINQ or ethertype == ETHER_QINQ_OLD


cdef inline uint8_t ptype_of(uint32_t ethertype) noexcept nogil:
    """Packet type of what is not IP."""
    if ethertype == ETHER_ARP:
        return PTYPE_ARP
    if ethertype == ETHER_LLDP:
        return PTYPE_LLDP
    if ethertype == ETHER_PTP:
        return PTYPE_PTP
    return PTYPE_ETHER


cdef void frame_parse(Frame *frame) noexcept nogil:
    """See _offload.pxd."""
    if not plain_parse(frame):
        parse_any(frame)


cdef void parse_any(Frame *frame) noexcept nogil:
    """See _offload.pxd.  Of a frame whose sender asked for something, the lengths that
    frame_check_request has judged stay as they are, also where the parser knows less."""
    cdef const uint8_t *head = frame.head
    cdef uint32_t room = frame.head_len, l2_len = 14, l3_len = 0, kind = KINDS
    cdef uint32_t flags = (frame.flags & ~<uint32_t>FRAME_FOUND) | FRAME_PARSED
    cdef uint32_t asked = flags & <uint32_t>FRAME_ASKED
    cdef uint32_t ethertype, tags = 0, base = 0
    if not asked:
        flags &= ~<uint32_t>(FRAME_IPV4 | FRAME_IPV6)
    if unlikely(room < 14):
        l2_len = room
        ethertype = 0
    else:
        ethertype = load_be16(head + 12)
    while unlikely(is_tag(ethertype)) and tags < MAX_TAGS and room - l2_len >= 4:
        if tags == 0:
            flags |= FRAME_TAGGED
            frame.vlan_tci = load_be16(head + 14)
        ethertype = load_be16(head + l2_len + 2)
        l2_len += 4
        tags += 1

    if ethertype == ETHER_IPV4:
        kind = walk_ipv4(head + l2_len, room - l2_len, &l3_len)
        base = PTYPE_IPV4
        # The sum over a right header is 0xffff: it cannot be 0, its version is not.
        if (kind != KINDS and not flags & FRAME_ASK_IP_CSUM
                and csum_fold_u64(csum_short(head + l2_len, l3_len)) != 0xFFFF):
            flags |= FRAME_IP_BAD
    elif ethertype == ETHER_IPV6:
        kind = walk_ipv6(head + l2_len, room - l2_len, &l3_len)
        base = PTYPE_IPV6

    if unlikely(asked and (l2_len != frame.l2_len or l3_len != frame.l3_len)):
        kind = KINDS
    if likely(kind != KINDS):
        frame.ptype = <uint8_t>(base + kind)
        flags |= FRAME_IPV4 if base == PTYPE_IPV4 else FRAME_IPV6
        if kind == KIND_FRAGMENT:
            flags |= FRAME_FRAGMENT
    else:
        frame.ptype = ptype_of(ethertype)
        kind = KIND_OTHER
    frame.flags = flags
    if likely(not asked):
        frame.l2_len = <uint16_t>l2_len
        frame.l3_len = <uint16_t>l3_len
    if likely(not flags & (FRAME_ASK_L4_CSUM | FRAME_ASK_TSO | FRAME_TUNNEL)):
        frame.l4_proto = KIND_L4[kind]
        frame.l4_len = L4_MIN[KIND_L4[kind]]
        if kind == KIND_TCP:
            frame.l4_len = (head[l2_len + l3_len + 12] >> 4) * 4


cdef inline int hash_of(Frame *frame, const ToeplitzKey *key, uint64_t hena) noexcept nogil:
    """frame_hash.  Fragments and protocols without ports are hashed by address only."""
    cdef const uint8_t *ip = frame.head + frame.l2_len
    cdef const uint8_t *ports = NULL
    cdef uint32_t kind = <uint32_t>frame.ptype - PTYPE_IPV4
    if likely(kind < KINDS):
        if not hena & KIND_HENA[kind]:
            return 0
        if KIND_L4[kind] != L4_NONE:
            ports = ip + frame.l3_len
        frame.hash = toeplitz_hash(key, ip + 12, 2, ports)
    else:
        kind = <uint32_t>frame.ptype - PTYPE_IPV6
        if kind >= KINDS or not hena >> 10 & KIND_HENA[kind]:
            return 0
        if KIND_L4[kind] != L4_NONE:
            ports = ip + frame.l3_len
        frame.hash = toeplitz_hash(key, ip + 8, 8, ports)
    frame.flags |= FRAME_HASHED
    return 1


cdef int frame_hash(Frame *frame, const ToeplitzKey *key, uint64_t hena) noexcept nogil:
    """See _offload.pxd."""
    return hash_of(frame, key, hena)


cdef inline uint64_t pseudo_sum(const Frame *frame, uint32_t l4_bytes) noexcept nogil:
    """Sum of the pseudo header: addresses, length and protocol."""
    cdef const uint8_t *ip = frame.head + frame.l2_len
    cdef uint64_t sum
    if likely(frame.flags & FRAME_IPV4):
        sum = csum_short(ip + 12, 8)
    else:
        sum = csum_short(ip + 8, 32)
    return csum_plus(sum, <uint64_t>swap_be32(l4_bytes) + swap_be32(L4_IP[frame.l4_proto & 3]))


cdef void frame_pseudo(const Frame *frame, uint32_t l4_bytes, Csum *csum) noexcept nogil:
    """See _offload.pxd.  The pseudo header begins at an even offset of what is summed."""
    csum.sum = csum_plus(csum.sum, pseudo_sum(frame, l4_bytes))


cdef inline int l4_range(const Frame *frame, uint32_t *start, uint32_t *end,
                         uint32_t *field) noexcept nogil:
    """frame_l4_range.  A received packet that claims more bytes than there are has no range; one
    whose checksum was left to us ends with the frame."""
    cdef const uint8_t *ip = frame.head + frame.l2_len
    cdef uint32_t proto = frame.l4_proto & 3, flags = frame.flags
    cdef uint32_t asked = flags & FRAME_ASK_L4_CSUM
    cdef uint32_t first = <uint32_t>frame.l2_len + frame.l3_len
    cdef uint32_t room = frame.len - first, size
    if unlikely(proto == L4_NONE or flags & FRAME_FRAGMENT
                or first + L4_MIN[proto] > frame.head_len):
        return 0
    if likely(flags & FRAME_IPV4):
        size = load_be16(ip + 2) - frame.l3_len
    elif flags & FRAME_IPV6:
        size = load_be16(ip + 4) + 40 - frame.l3_len
    else:
        return 0
    # Unsigned: a length that does not cover its own headers is too large as well.
    if unlikely(size > room):
        if not asked:
            return 0
        size = room
    if unlikely(size < L4_MIN[proto]):
        return 0
    if proto == L4_UDP:
        # A checksum of 0 says that there is none (RFC 768), over IPv6 where two ends have agreed on
        # that (RFC 6936): tunnels.  Whether they have is theirs to know.
        if not asked and load_u16(ip + frame.l3_len + 6) == 0:
            return 0
        room = load_be16(ip + frame.l3_len + 4)
        if likely(room >= 8 and room <= size):
            size = room
        elif not asked:
            return 0
    start[0] = first
    end[0] = first + size
    field[0] = first + L4_FIELD[proto]
    return 1


cdef int frame_l4_range(const Frame *frame, uint32_t *start, uint32_t *end,
                        uint32_t *field) noexcept nogil:
    """See _offload.pxd."""
    return l4_range(frame, start, end, field)


cdef void frame_fill_ip_csum(Frame *frame) noexcept nogil:
    """See _offload.pxd."""
    fill_ip_csum(frame.head + frame.l2_len, frame.l3_len)


cdef int frame_check_tso(const Frame *frame) noexcept nogil:
    """See _offload.pxd."""
    cdef uint32_t first = <uint32_t>frame.l2_len + frame.l3_len
    cdef uint32_t header = first + frame.l4_len, payload
    if frame.l4_proto == L4_TCP:
        if frame.l4_len < 20 or frame.l4_len != (frame.head[first + 12] >> 4) * 4:
            return 1
    elif frame.l4_proto != L4_UDP or frame.l4_len != 8:
        return 1
    if header > frame.head_len or header >= frame.len or frame.mss == 0:
        return 1
    payload = frame.len - header
    if header + min(payload, <uint32_t>frame.mss) > FRAME_MAX_LEN:
        return 1
    return (payload - 1) // frame.mss >= MAX_SEGMENTS


cdef int frame_check_request(Frame *frame) noexcept nogil:
    """See _offload.pxd.  Sets IPV4 or IPV6 of an accepted frame; TSO implies both checksums."""
    cdef const uint8_t *ip = frame.head + frame.l2_len
    cdef uint32_t l3_len = 0, kind, start, end, field
    cdef uint32_t flags = frame.flags & ~<uint32_t>(FRAME_IPV4 | FRAME_IPV6 | FRAME_FRAGMENT)
    if not flags & <uint32_t>FRAME_ASKED:
        return 0
    if frame.l2_len < 14 or <uint32_t>frame.l2_len + frame.l3_len >= frame.head_len:
        return 1
    if ip[0] >> 4 == 4:
        kind = walk_ipv4(ip, frame.head_len - frame.l2_len, &l3_len)
        flags |= FRAME_IPV4
        if flags & FRAME_ASK_TSO:
            flags |= FRAME_ASK_IP_CSUM
    else:
        kind = walk_ipv6(ip, frame.head_len - frame.l2_len, &l3_len)
        flags |= FRAME_IPV6
        if flags & FRAME_ASK_IP_CSUM:
            return 1
    if kind == KINDS or l3_len != frame.l3_len:
        return 1
    if not flags & (FRAME_ASK_L4_CSUM | FRAME_ASK_TSO):
        frame.flags = flags
        return 0
    if frame.l4_proto == L4_NONE or KIND_L4[kind] != frame.l4_proto:
        return 1
    frame.flags = flags | FRAME_ASK_L4_CSUM
    if flags & FRAME_ASK_TSO:
        return frame_check_tso(frame)
    return not frame_l4_range(frame, &start, &end, &field)


cdef uint32_t settle_sctp(Frame *frame, uint32_t start, uint32_t end,
                          uint32_t field) noexcept nogil:
    """Verdict on SCTP: the CRC covers the packet with its own field as zero."""
    cdef uint32_t sent = load_u32(frame.head + field), crc
    store_u32(frame.head + field, 0)
    crc = crc32c_final(crc32c_add(0xFFFFFFFF, frame.head + start, end - start))
    if frame.flags & FRAME_ASK_L4_CSUM:
        sent = crc
    store_u32(frame.head + field, sent)
    return FRAME_L4_GOOD if crc == sent else FRAME_L4_BAD


cdef uint32_t settle_asked(Frame *frame, uint32_t start, uint32_t end,
                           uint32_t field) noexcept nogil:
    cdef uint64_t sum = pseudo_sum(frame, end - start)
    cdef uint16_t value
    store_u16(frame.head + field, 0)
    value = ~csum_fold_u64(csum_plus(sum, csum_short(frame.head + start, end - start)))
    # RFC 768: a computed zero is sent as all ones, zero means "no checksum".
    if value == 0 and frame.l4_proto == L4_UDP:
        value = 0xFFFF
    store_u16(frame.head + field, value)
    return FRAME_L4_GOOD


cdef inline void settle(Frame *frame, bint judge) noexcept nogil:
    """frame_settle."""
    cdef uint32_t start, end, field, flags = frame.flags, verdict = 0
    if unlikely(flags & FRAME_ASK_IP_CSUM):
        frame_fill_ip_csum(frame)
    if ((flags & FRAME_ASK_L4_CSUM or (judge and not flags & (FRAME_L4_GOOD | FRAME_L4_BAD)))
            and l4_range(frame, &start, &end, &field)):
        if unlikely(frame.l4_proto == L4_SCTP):
            verdict = settle_sctp(frame, start, end, field)
        elif flags & FRAME_ASK_L4_CSUM:
            verdict = settle_asked(frame, start, end, field)
        elif likely(csum_fold_u64(csum_plus(
                pseudo_sum(frame, end - start),
                csum_short(frame.head + start, end - start))) == 0xFFFF):
            verdict = FRAME_L4_GOOD
        else:
            verdict = FRAME_L4_BAD
    frame.flags = (flags & ~<uint32_t>(FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM)) | verdict


cdef void frame_settle(Frame *frame, bint judge) noexcept nogil:
    """See _offload.pxd."""
    settle(frame, judge)


cdef uint64_t burst_judge(Burst *burst, uint32_t mask, const ToeplitzKey *key, uint64_t hena,
                          bint judge) noexcept nogil:
    """See _offload.pxd.  Those that are most frames are done together."""
    cdef Frame *frame
    cdef PlainWish wish = PlainWish(key, 0, judge)
    cdef uint64_t kind
    if hena & KIND_HENA[<int>KIND_UDP]:
        wish.hashed |= 1 << <int>L4_UDP
    if hena & KIND_HENA[<int>KIND_TCP]:
        wish.hashed |= 1 << <int>L4_TCP
    mask &= ~plain_judge(burst, mask, &wish, &kind)
    while unlikely(mask):
        frame = &burst.frames[lowest_bit(mask)]
        mask &= mask - 1
        if not frame.flags & FRAME_PARSED:
            parse_any(frame)
        # Not remembered from an earlier destination: its key was another.
        frame.flags &= ~<uint32_t>FRAME_HASHED
        frame.hash = 0
        if hena:
            hash_of(frame, key, hena)
        if frame.num_segs == 0 and not frame.flags & (FRAME_ASK_TSO | FRAME_TUNNEL):
            settle(frame, judge)
    return kind
