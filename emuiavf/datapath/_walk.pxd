"""Walking the headers of IP packets, inline for all that reads frames.

A header that does not lie wholly in the `room` bytes is none.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "bytes.h" nogil:
    uint16_t load_be16(const uint8_t *p) noexcept


cdef extern from "protocols.h" nogil:
    enum:
        KIND_FRAGMENT
        KIND_OTHER
        KIND_UDP
        KIND_TCP
        KIND_SCTP
        KIND_ICMP
        KINDS
    const uint8_t *KIND_L4
    const uint64_t *KIND_HENA
    const uint8_t *L4_MIN
    const uint8_t *L4_FIELD
    const uint8_t *L4_IP


cdef extern from *:
    bint likely(bint condition) noexcept nogil
    bint unlikely(bint condition) noexcept nogil


cdef enum:
    IP_HOPOPTS = 0
    IP_ICMP = 1
    IP_TCP = 6
    IP_UDP = 17
    IP_ROUTING = 43
    IP_FRAGMENT = 44
    IP_ICMPV6 = 58
    IP_DSTOPTS = 60
    IP_SCTP = 132

    MAX_EXTENSIONS = 8


cdef inline uint32_t kind_of(uint32_t protocol, uint32_t icmp, uint32_t room) noexcept nogil:
    """Kind of the payload of an IP header with `room` bytes of the head behind it."""
    if protocol == IP_UDP and room >= 8:
        return KIND_UDP
    if protocol == IP_TCP and room >= 20:
        return KIND_TCP
    if protocol == IP_SCTP and room >= 12:
        return KIND_SCTP
    if protocol == icmp:
        return KIND_ICMP
    return KIND_OTHER


cdef inline uint32_t walk_ipv4(const uint8_t *ip, uint32_t room, uint32_t *l3_len) noexcept nogil:
    """Kind and header length of an IPv4 header, or KINDS if it is none."""
    cdef uint32_t size
    if unlikely(room < 20):
        return KINDS
    size = (ip[0] & 15) * 4
    if unlikely(ip[0] >> 4 != 4 or size < 20 or size > room):
        return KINDS
    l3_len[0] = size
    # More fragments, or an offset.
    if unlikely(load_be16(ip + 6) & 0x3FFF):
        return KIND_FRAGMENT
    return kind_of(ip[9], IP_ICMP, room - size)


cdef inline uint32_t walk_ipv6(const uint8_t *ip, uint32_t room, uint32_t *l3_len) noexcept nogil:
    """The same of an IPv6 header with its extension headers.

    A fragment header, even of a whole packet, makes a fragment.  A routing header with segments
    left makes KIND_OTHER: the pseudo header has the last destination, which is not in place.
    """
    cdef uint32_t at = 40, _extension, size, protocol
    if room < 40 or ip[0] >> 4 != 6:
        return KINDS
    protocol = ip[6]
    for _extension in range(MAX_EXTENSIONS + 1):
        l3_len[0] = at
        if protocol == IP_FRAGMENT:
            return KIND_FRAGMENT
        if protocol != IP_HOPOPTS and protocol != IP_ROUTING and protocol != IP_DSTOPTS:
            return kind_of(protocol, IP_ICMPV6, room - at)
        if room - at < 8:
            return KIND_OTHER
        size = (ip[at + 1] + 1) * 8
        if size > room - at or (protocol == IP_ROUTING and ip[at + 3]):
            return KIND_OTHER
        protocol = ip[at]
        at += size
    return KIND_OTHER
