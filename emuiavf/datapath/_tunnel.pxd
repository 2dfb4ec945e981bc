"""Packets in packets (VXLAN, GENEVE, GRE, IP in IP): what a sender asks for the inner one.

The outer packet of such a frame is a frame like others: its flags ask for its checksums.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf.datapath._frame cimport Frame
from emuiavf.datapath._offload cimport Csum


# One L4 checksum: of bytes [start, end) of the packet.  An end of 0: there is none.
cdef struct Covered:
    uint32_t start
    uint32_t end
    uint32_t field


# A packet that is going to be delivered: the frame, or one segment of it.
cdef struct Sealing:
    Frame frame        # both as their headers in the delivered head say
    Frame inner
    uint32_t head      # bytes of the delivered head
    uint32_t source    # where in the frame the bytes behind it are
    uint32_t length    # of the whole packet
    Covered outer
    Covered within     # of the inner packet
    uint32_t judged    # the outer checksum is not to be computed but to be compared


# Checks what a sender asks for against the head.  On entry l4_len is what the sender says of the
# inner L4 header, `l3_len` the same of the inner IP header.  Returns 0 when it can be done; then
# l4_len is as include/frame.h says, and IPV4 or IPV6 are of the outer packet.
cdef int frame_check_tunnel(Frame *frame, uint32_t l3_len) noexcept nogil

# Begins the delivery of such a frame, or of its segment at payload offset `at`: writes the head to
# `head` (FRAME_HEADROOM + FRAME_HEAD_MAX bytes), final but for the L4 checksums.  With `judge`, an
# outer checksum that the sender has computed is to be compared.
cdef void tunnel_begin(const Frame *frame, uint32_t at, bint judge, uint8_t *head,
                       Sealing *sealing) noexcept nogil

# Bytes behind the head that `within` covers, and those behind them that `outer` does too.
cdef void tunnel_parts(const Sealing *sealing, uint32_t *within, uint32_t *outer) noexcept nogil

# What sums of those bytes begin with.
cdef void tunnel_body(const Sealing *sealing, Csum *body) noexcept nogil

# Writes the L4 checksums into the head, from the sums of the bytes behind it that each covers;
# `crc` is that of all of `within` when the inner packet is SCTP.  Returns FRAME_L4_GOOD,
# FRAME_L4_BAD or 0 (nothing to check) for the outer packet.
cdef uint32_t tunnel_seal(const Sealing *sealing, uint8_t *head, uint64_t within, uint64_t outer,
                          uint32_t crc) noexcept nogil
