"""Numbered frames: their layout, what fills them, and the checksum over all of it.

A frame of a flow is

     0  Ethernet, IPv4 and UDP header (42 bytes; lengths and the IPv4 checksum follow the size)
    42  u64 sequence number        50  u64 CLOCK_MONOTONIC ns        58  u16 flow number
    60  u32 checksum over the whole frame, this field taken as 0
    64  a pattern that differs from frame to frame

The checksum has four lanes of 64-bit words (include/numbered.h).  Exchanging the two addresses
does not change it: a program between sender and receiver may do that (testpmd's macswap).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "numbered.h" nogil:
    uint64_t LOW_HALF
    uint64_t PRIME
    uint64_t ADDRESS_MASK
    enum:
        STAMPED
    ctypedef struct Lanes:
        uint64_t lane[4]
    void lanes_init(Lanes *lanes, uint32_t length) noexcept
    void lanes_add(Lanes *lanes, const void *words) noexcept
    void lanes_add_bytes(Lanes *lanes, const uint8_t *data, uint32_t size) noexcept
    uint64_t FOLD_STEP(uint64_t h) noexcept
    uint32_t lanes_fold(const Lanes *lanes) noexcept
    void fill(uint8_t *data, uint32_t size, uint64_t seed) noexcept


cdef enum:
    STREAM_IP_AT = 14


# What all frames of a flow share.
cdef struct Stream:
    uint64_t header[6]       # the headers, zero where lengths, checksum and number go
    uint32_t ip_sum          # of the IPv4 header without its length
    uint16_t number


# What a frame says of itself.
cdef struct Stamp:
    uint64_t seq
    uint64_t sent_ns
    uint32_t check
    uint16_t flow


# `header`: 42 bytes as of flow_header().
cdef int stream_init(Stream *stream, bytes header, uint16_t number) except -1


cdef inline uint64_t be16(uint32_t value) noexcept nogil:
    return (value >> 8) & 0xFF | (value & 0xFF) << 8


cdef inline void stream_head(const Stream *stream, uint64_t *head, uint32_t size, uint64_t seq,
                             uint64_t now) noexcept nogil:
    """The fixed part of frame `seq` as eight words, checksum 0.

    Composed in registers: storing the fields and loading them as words for the checksum would wait
    for the stores (24 ns instead of 13 per 64-byte frame of a Tx-only loop).
    """
    cdef uint32_t ip_len = size - STREAM_IP_AT, ip_sum = stream.ip_sum + size - STREAM_IP_AT
    ip_sum = (ip_sum & 0xFFFF) + (ip_sum >> 16)
    ip_sum = (ip_sum & 0xFFFF) + (ip_sum >> 16)
    head[0] = stream.header[0]
    head[1] = stream.header[1]
    head[2] = stream.header[2] | be16(ip_len)
    head[3] = stream.header[3] | be16(~ip_sum & 0xFFFF)
    head[4] = stream.header[4] | be16(ip_len - 20) << 48
    head[5] = stream.header[5] | seq << 16
    head[6] = seq >> 48 | now << 16
    head[7] = now >> 48 | <uint64_t>stream.number << 16


cdef inline void lanes_begin_half(Lanes *lanes, const uint64_t *head,
                                  uint32_t size) noexcept nogil:
    """Take in the first half of the fixed part of a frame of `size` bytes."""
    cdef uint64_t words[4]
    cdef uint64_t to = head[0] & ADDRESS_MASK
    cdef uint64_t origin = head[0] >> 48 | (head[1] & LOW_HALF) << 16
    # Both are the same when the addresses change places, and neither when one of them changes.
    words[0] = (to ^ origin) | head[1] >> 32 << 48
    words[1] = (to + origin) ^ head[1] >> 48 << 48
    words[2] = head[2]
    words[3] = head[3]
    lanes_init(lanes, size)
    lanes_add(lanes, words)


cdef inline void lanes_begin(Lanes *lanes, const uint64_t *head, uint32_t size) noexcept nogil:
    """Take in all of it, whatever its checksum field holds."""
    cdef uint64_t words[4]
    lanes_begin_half(lanes, head, size)
    words[0] = head[4]
    words[1] = head[5]
    words[2] = head[6]
    words[3] = head[7] & LOW_HALF
    lanes_add(lanes, words)


cdef inline Stamp stamp_of(const uint64_t *head) noexcept nogil:
    cdef Stamp stamp
    stamp.seq = head[5] >> 16 | head[6] << 48
    stamp.sent_ns = head[6] >> 16 | head[7] << 48
    stamp.flow = <uint16_t>(head[7] >> 16)
    stamp.check = <uint32_t>(head[7] >> 32)
    return stamp
