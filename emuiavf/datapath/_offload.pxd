"""Parsing, requests, checksums and hashing of frames (bodies in _offload.pyx and include/).

Every function judges the private head only (Frame.head, Frame.head_len bytes): headers beyond it
are treated as unknown.  None fails; what cannot be parsed keeps ptype 1 (plain Ethernet).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, Frame
from emuiavf.datapath._toeplitz cimport ToeplitzKey


cdef extern from "bytes.h" nogil:
    # Words of a packet at any alignment: host order, and big-endian.
    uint16_t load_u16(const uint8_t *p) noexcept
    uint32_t load_u32(const uint8_t *p) noexcept
    uint64_t load_u64(const uint8_t *p) noexcept
    void store_u16(uint8_t *p, uint16_t v) noexcept
    void store_u32(uint8_t *p, uint32_t v) noexcept
    void store_u64(uint8_t *p, uint64_t v) noexcept
    uint16_t load_be16(const uint8_t *p) noexcept
    uint32_t load_be32(const uint8_t *p) noexcept
    void store_be16(uint8_t *p, uint16_t v) noexcept
    void store_be32(uint8_t *p, uint32_t v) noexcept
    uint32_t swap_be32(uint32_t v) noexcept


cdef extern from "csum.h" nogil:
    # One's complement sum over the pieces of a range, in any number of pieces of any length.
    ctypedef struct Csum:
        uint64_t sum
        uint32_t odd

    void csum_init(Csum *csum) noexcept
    void csum_add(Csum *csum, const uint8_t *src, size_t len) noexcept
    # The same, and copies the bytes to dst (fused; the widest version the CPU has).
    void csum_add_copy(Csum *csum, uint8_t *dst, const uint8_t *src, size_t len) noexcept
    # Folded to 16 bits in memory order, not inverted: store it with a 16-bit store.
    uint16_t csum_fold(const Csum *csum) noexcept
    # Sum of a short piece, inline, to be folded: for headers.
    uint64_t csum_short(const uint8_t *src, size_t len) noexcept
    uint64_t csum_plus(uint64_t sum, uint64_t part) noexcept
    uint16_t csum_fold_u64(uint64_t sum) noexcept
    # CRC32c of SCTP over pieces: start with 0xffffffff, finish with crc32c_final.
    uint32_t crc32c_add(uint32_t crc, const uint8_t *src, size_t len) noexcept
    uint32_t crc32c_final(uint32_t crc) noexcept
    # Plain copy for frames (short sizes inline, wide loops behind a run-time choice).
    void frame_copy(uint8_t *dst, const uint8_t *src, size_t len) noexcept
    # Which wide sum this extension uses; chosen at import, changed by tests only.  0: CPU lacks it.
    enum:
        CSUM_SCALAR
        CSUM_AVX2
        CSUM_AVX512
    int csum_use(int kind) noexcept
    uint32_t crc32c_add_table(uint32_t crc, const uint8_t *src, size_t len) noexcept


cdef inline void fill_ip_csum(uint8_t *ip, uint32_t l3_len) noexcept nogil:
    store_u16(ip + 10, 0)
    store_u16(ip + 10, <uint16_t>~csum_fold_u64(csum_short(ip, l3_len)))


# Fills ptype, l2_len, l3_len, l4_len, l4_proto, IPV4/IPV6/FRAGMENT, IP_BAD (IPv4 header checksum,
# only when the sender did not ask us to compute it), TAGGED and vlan_tci; sets FRAME_PARSED.
cdef void frame_parse(Frame *frame) noexcept nogil

# Toeplitz hash by class (hena bits of virtchnl); sets FRAME_HASHED and returns 1 when hashed.
cdef int frame_hash(Frame *frame, const ToeplitzKey *key, uint64_t hena) noexcept nogil

# Sum of the pseudo header for the L4 checksum of a parsed (or asked-for) frame, added to csum.
# l4_bytes = length of the L4 header and payload.
cdef void frame_pseudo(const Frame *frame, uint32_t l4_bytes, Csum *csum) noexcept nogil

# Bytes [start, end) of the frame that the L4 checksum covers, from the IP length field, clipped to
# the frame; and where the checksum field is.  Returns 0 when there is none to check or compute
# (fragments, no L4, headers outside the head).
cdef int frame_l4_range(const Frame *frame, uint32_t *start, uint32_t *end,
                        uint32_t *field) noexcept nogil

# Writes the IPv4 header checksum of a FRAME_ASK_IP_CSUM frame into its head.
cdef void frame_fill_ip_csum(Frame *frame) noexcept nogil

# Checks what a sender asked for against the head: header lengths consistent with the bytes, inside
# the head, protocol as asked.  Returns 0 when it can be done, else non-zero (drop, tx_errors).
cdef int frame_check_request(Frame *frame) noexcept nogil

# Whether a frame whose sender's requests are otherwise right can be cut: exact headers inside the
# head, a payload, a bounded number of segments.  Returns 0, else non-zero.
cdef int frame_check_tso(const Frame *frame) noexcept nogil

# A frame that is wholly in its head (num_segs 0, not to be cut): fills in the checksums asked for,
# or with `judge` checks the one it carries; afterwards nothing is asked any more and L4_GOOD or
# L4_BAD tells what is known.  The frame has been parsed, or asks for something.
cdef void frame_settle(Frame *frame, bint judge) noexcept nogil

# Parses the frames of `mask`; hashes them when `hena` is not 0; settles those that can be.
# Returns the kind (frame_kind) that all of them have now, and the same type, without any tag; or 0.
cdef uint64_t burst_judge(Burst *burst, uint32_t mask, const ToeplitzKey *key, uint64_t hena,
                          bint judge) noexcept nogil
