"""Declarations of include/frame.h for Cython; see there for what each field means."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "frame.h" nogil:
    enum:
        ETHER_ADDRESSES
        ETHER_TAG
        ETHER_FCS
        ETHER_VLAN
        BURST_FRAMES
        BURST_SEGMENTS
        BURST_BYTES
        FRAME_MAX_SEGMENTS
        FRAME_HEAD
        FRAME_HEAD_MAX
        FRAME_HEADROOM
        FRAME_MIN_LEN
        FRAME_MAX_LEN
        FRAME_MAX_TSO
        FRAME_ASK_IP_CSUM
        FRAME_ASK_L4_CSUM
        FRAME_ASK_TSO
        FRAME_MULTICAST
        FRAME_BROADCAST
        FRAME_PARSED
        FRAME_IPV4
        FRAME_IPV6
        FRAME_FRAGMENT
        FRAME_IP_BAD
        FRAME_L4_GOOD
        FRAME_L4_BAD
        FRAME_HASHED
        FRAME_TAGGED
        FRAME_DROP
        FRAME_MATCHED
        FRAME_MARKED
        FRAME_STEERED
        FRAME_TUNNEL
        FRAME_QUEUE_SHIFT
        FRAME_RULED
        TUNNEL_EIPT
        TUNNEL_EIPT_IPV6
        TUNNEL_TYPE
        TUNNEL_NONE
        TUNNEL_UDP
        TUNNEL_GRE
        TUNNEL_KEEP_ID
        TUNNEL_ASK_IP_CSUM
        TUNNEL_L4_SHIFT
        L4_NONE
        L4_TCP
        L4_SCTP
        L4_UDP
        PUT_DROP
        TAKE_LATER
        RX_BYTES
        RX_UNICAST
        RX_MULTICAST
        RX_BROADCAST
        RX_DISCARDS
        RX_UNKNOWN_PROTOCOL
        RX_PACKETS
        RX_NO_BUFFER
        RX_TOO_LONG
        RX_QUEUE_OFF
        RX_BAD_ADDRESS
        RX_INTERRUPTS
        RX_CSUM_BAD
        RX_DISCARDED_BYTES
        RX_RULE_DROPS
        TX_BYTES
        TX_UNICAST
        TX_MULTICAST
        TX_BROADCAST
        TX_DISCARDS
        TX_ERRORS
        TX_PACKETS
        TX_SEGMENTS
        TX_MALICIOUS
        TX_SPOOFED
        TX_HELD
        TX_INTERRUPTS
        TX_FILTERED
        TX_STORM
        ROW_COUNTERS
    uint64_t FRAME_BROADCAST_MAC

    ctypedef struct Segment:
        uint8_t *data
        uint32_t len

    ctypedef struct Frame:
        uint8_t *head
        Segment *segs
        uint32_t len
        uint32_t flags
        uint32_t hash
        uint32_t cursor
        uint16_t head_len
        uint16_t num_segs
        uint16_t l2_len
        uint16_t l3_len
        uint16_t l4_len
        uint16_t mss
        uint16_t next_slot
        uint8_t ptype
        uint8_t l4_proto
        uint16_t vlan_tci
        uint8_t tunnel
        uint8_t tunnel_len
        uint32_t mark
        uint64_t dst_mac

    uint32_t frame_take_dst(Frame *frame, const uint8_t *head) noexcept

    ctypedef struct Burst:
        Frame frames[32]
        uint8_t heads[32][320]
        Segment segs[768]
        uint32_t num_segs
        uint32_t whole
        uint64_t alike
        uint64_t now_ns

    ctypedef struct Source:
        int (*take)(Source *source, Burst *burst) noexcept nogil
        void (*done)(Source *source, Burst *burst, int n) noexcept nogil
        int fd
        uint32_t member
        uint64_t held_since
        uint64_t flooded_ns
        uint64_t *row
        uint64_t due_ns

    ctypedef struct RxFilterTable:
        pass

    ctypedef struct FrameSink:
        uint32_t (*put)(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil
        const RxFilterTable *filter
        uint32_t member
        uint64_t full_since

    uint64_t FOREVER

    ctypedef struct Poller:
        uint64_t (*poll)(Poller *poller, uint64_t now_ns) noexcept nogil
        const uint32_t *napping
        int wake_fd
