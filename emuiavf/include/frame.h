/* Frames, bursts and the two halves of an endpoint: what every stage of the data path shares.
 *
 * A Frame is a reference: `head` points at a private copy of the first bytes (what is judged is what
 * is delivered), the rest is a list of segments in memory of the source, valid until the source's
 * done().  Nothing is allocated or zeroed per frame.  No word of any device model here.
 */
#ifndef EMUIAVF_FRAME_H
#define EMUIAVF_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FRAME_BROADCAST_MAC 0xffffffffffffu

/* Bytes of a frame on the wire; a tag stands behind the addresses. */
enum { ETHER_ADDRESSES = 12, ETHER_TAG = 4, ETHER_FCS = 4 };
enum { ETHER_VLAN = 0x8100 };

enum {
    BURST_FRAMES = 32,     /* a mask of frames fits one 32-bit word */
    BURST_SEGMENTS = 768,  /* of all frames of a burst together */
    FRAME_MAX_SEGMENTS = 320,
    FRAME_HEAD = 128,      /* bytes copied out of the source's memory */
    FRAME_HEAD_MAX = 256,  /* ... of a packet in a packet: all headers of both */
    FRAME_HEADROOM = 16,   /* in front of them: room for two VLAN tags */
    FRAME_MIN_LEN = 14,
    FRAME_MAX_LEN = 9728,  /* of a frame that is not to be segmented, without FCS */
    FRAME_MAX_TSO = 262144,
    BURST_BYTES = 131072,  /* a turn is bounded in bytes; one frame may exceed it */
};

/* Frame.flags */
enum {
    FRAME_ASK_IP_CSUM = 1u << 0,  /* the sender leaves the IPv4 header checksum to us */
    FRAME_ASK_L4_CSUM = 1u << 1,  /* ... the TCP, UDP or SCTP checksum (l4_proto says which) */
    FRAME_ASK_TSO = 1u << 2,      /* cut into segments of `mss` payload bytes */
    FRAME_MULTICAST = 1u << 3,    /* destination address, group bit; broadcast sets both */
    FRAME_BROADCAST = 1u << 4,
    FRAME_PARSED = 1u << 5,       /* frame_parse() has run: ptype, lengths and the flags below hold */
    FRAME_IPV4 = 1u << 6,
    FRAME_IPV6 = 1u << 7,
    FRAME_FRAGMENT = 1u << 8,
    FRAME_IP_BAD = 1u << 9,       /* IPv4 header checksum wrong */
    FRAME_L4_GOOD = 1u << 10,     /* L4 checksum known to be right (computed here, or vouched for) */
    FRAME_L4_BAD = 1u << 11,
    FRAME_HASHED = 1u << 12,
    FRAME_TAGGED = 1u << 13,      /* outermost tag is a VLAN tag of TPID 0x8100, 0x88a8 or 0x9100 */
    FRAME_DROP = 1u << 14,        /* judged unfit by its source: delivered nowhere */
    FRAME_MATCHED = 1u << 15,     /* a rule of the destination has matched ... */
    FRAME_MARKED = 1u << 16,      /* ... and gives it `mark` */
    FRAME_STEERED = 1u << 17,     /* ... and the queue that stands from bit FRAME_QUEUE_SHIFT on */
    FRAME_TUNNEL = 1u << 18,      /* something is asked for the packet inside this one: `tunnel` */
    FRAME_QUEUE_SHIFT = 24,
    FRAME_RULED = FRAME_MATCHED | FRAME_MARKED | FRAME_STEERED | 0xffu << FRAME_QUEUE_SHIFT,
};

/* Frame.l4_proto, and by chance the L4T codes of a Tx descriptor */
enum { L4_NONE = 0, L4_TCP = 1, L4_SCTP = 2, L4_UDP = 3 };

/* Frame.tunnel: the sender's words about a frame with FRAME_TUNNEL, whose flags, l2_len, l3_len and
 * l4_proto are of the outer packet.  E810 datasheet, context descriptor: EIPT, L4TUNT. */
enum {
    TUNNEL_EIPT = 3,             /* outer IP: 1 is IPv6, others IPv4 */
    TUNNEL_EIPT_IPV6 = 1,
    TUNNEL_TYPE = 3 << 2,        /* what is behind it */
    TUNNEL_NONE = 0 << 2,        /* the inner IP packet */
    TUNNEL_UDP = 1 << 2,
    TUNNEL_GRE = 2 << 2,
    TUNNEL_KEEP_ID = 1 << 4,     /* all segments have the same outer IPv4 id */
    TUNNEL_ASK_IP_CSUM = 1 << 5, /* of the inner packet */
    TUNNEL_L4_SHIFT = 6,         /* L4_*: ... its L4 checksum */
};

typedef struct Segment {
    uint8_t *data;
    uint32_t len;
    uint32_t unused;
} Segment;

typedef struct Frame {
    uint8_t *head;      /* first byte of the frame, tags inserted */
    Segment *segs;      /* the bytes behind the head */
    uint32_t len;       /* whole frame, without FCS */
    uint32_t flags;
    uint32_t hash;
    uint32_t cursor;    /* payload bytes of a frame to be segmented that were delivered already */
    uint16_t head_len;  /* bytes at head: the whole frame when num_segs == 0 */
    uint16_t num_segs;
    uint16_t l2_len;    /* Ethernet header with its tags; as asked by the sender, or as parsed */
    uint16_t l3_len;    /* IP header with options or extension headers */
    uint16_t l4_len;    /* exact for ASK_TSO; otherwise as parsed.  With FRAME_TUNNEL all that is left
                         * of the headers: those of the tunnel, and the inner packet's IP and L4 */
    uint16_t mss;
    uint16_t next_slot; /* the source's own: where the slot behind this frame is */
    uint8_t ptype;      /* Intel packet type, 0..255 */
    uint8_t l4_proto;
    uint16_t vlan_tci;  /* of the outermost tag, when FRAME_TAGGED */
    uint8_t tunnel;     /* TUNNEL_* ... */
    uint8_t tunnel_len; /* ... and bytes between outer and inner IP header; when FRAME_TUNNEL */
    uint32_t mark;      /* when FRAME_MARKED */
    uint64_t dst_mac;   /* destination address: its six bytes read as a little-endian number */
} Frame;

_Static_assert(sizeof(Frame) == 64, "a Frame is one cache line");

/* len, and above it flags. */
static inline uint64_t frame_kind(const Frame *frame)
{
    uint64_t kind;
    memcpy(&kind, &frame->len, 8);
    return kind;
}

/* head_len, and above it num_segs. */
static inline uint32_t frame_head_lens(const Frame *frame)
{
    uint32_t lens;
    memcpy(&lens, &frame->head_len, 4);
    return lens;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ &&
                   offsetof(Frame, flags) == offsetof(Frame, len) + 4 &&
                   offsetof(Frame, num_segs) == offsetof(Frame, head_len) + 2,
               "two fields each");

/* The flags that follow from a destination address. */
static inline uint32_t frame_cast(uint64_t dst_mac)
{
    if (!(dst_mac & 1))
        return 0;
    return dst_mac == FRAME_BROADCAST_MAC ? FRAME_MULTICAST | FRAME_BROADCAST : FRAME_MULTICAST;
}

/* Takes the destination address from the head, of which eight bytes can be read; returns the flags
 * that follow from it. */
static inline uint32_t frame_take_dst(Frame *frame, const uint8_t *head)
{
    uint64_t word;
    memcpy(&word, head, 8);
    frame->dst_mac = word & FRAME_BROADCAST_MAC;
    return frame_cast(frame->dst_mac);
}

/* A frame as its source finds it, of which nothing is known or asked: its first `len` bytes, or
 * FRAME_HEAD of them, are at `head`, and `begin` is the first eight of these; the rest stands at
 * `segs`, which the caller sets then.
 *
 * Stores of 8 bytes that also clear the fields behind the one that they set: half as many. */
static inline __attribute__((always_inline)) void frame_begin(Frame *frame, uint8_t *head,
                                                              uint32_t len, uint64_t next_slot,
                                                              uint64_t begin, uint32_t cast)
{
    uint64_t lengths = len, none = 0, head_lens = len, rest = next_slot << 32 | 1ull << 48;
    if (__builtin_expect(len > FRAME_HEAD, 0))
        head_lens = FRAME_HEAD | 1 << 16;
    frame->head = head;
    frame->dst_mac = begin & FRAME_BROADCAST_MAC;
    memcpy(&frame->len, &lengths, 8);
    memcpy(&frame->hash, &none, 8);
    memcpy(&frame->head_len, &head_lens, 8);
    memcpy(&frame->l4_len, &rest, 8);
    if (__builtin_expect(cast, 0))
        frame->flags = cast;
}
_Static_assert(offsetof(Frame, cursor) == offsetof(Frame, hash) + 4 &&
                   offsetof(Frame, l3_len) == offsetof(Frame, head_len) + 6 &&
                   offsetof(Frame, next_slot) == offsetof(Frame, l4_len) + 4 &&
                   offsetof(Frame, ptype) == offsetof(Frame, l4_len) + 6 && L4_NONE == 0,
               "as frame_begin writes them");

typedef struct Burst {
    Frame frames[BURST_FRAMES] __attribute__((aligned(64)));
    /* A frame begins with a cache line, so that moves of 32 bytes cross none. */
    uint8_t unused[64 - FRAME_HEADROOM] __attribute__((aligned(64)));
    uint8_t heads[BURST_FRAMES][FRAME_HEADROOM + FRAME_HEAD_MAX + 48];
    Segment segs[BURST_SEGMENTS];
    uint32_t num_segs;
    uint32_t whole;     /* bit per frame known to lie in its head as a whole and to ask for nothing */
    uint64_t now_ns;    /* CLOCK_MONOTONIC at the start of the worker's turn */
    /* Bytes of all frames as they were taken, when they are known to be unicast for one and the same
     * address and none was dropped; else 0. */
    uint64_t alike;
    /* judge.h: what the frames of the last burst had in common. */
    uint64_t judged[132] __attribute__((aligned(64)));
} Burst;

_Static_assert((offsetof(Burst, heads) + FRAME_HEADROOM) % 64 == 0 &&
                   sizeof ((Burst *)NULL)->heads[0] % 64 == 0,
               "as said of the heads");

/* One place frames come from (one Tx ring, one TAP): owned by exactly one worker. */
typedef struct Source Source;
struct Source {
    /* Fill the burst from the oldest frame that is not done; returns the number of frames.  A frame
     * that was taken and not done is taken again, with its cursor.  TAKE_LATER: there are frames,
     * and none may go before `due_ns`. */
    int (*take)(Source *source, Burst *burst);
    /* The first n frames are finished; if n is less than taken, frame n keeps its cursor. */
    void (*done)(Source *source, Burst *burst, int n);
    int fd;               /* becomes readable when there may be frames, or -1: must be polled */
    uint32_t member;      /* number of its endpoint in a switch: never sent back there */
    /* Worker's: when the first frame began to wait for room, or 0; in a switch since when the source
     * has been waiting for what it was promised. */
    uint64_t held_since;
    uint64_t flooded_ns;  /* worker's: until when what it has flooded counts, see SwitchConf.storm */
    uint64_t *row;        /* its counters: 16 of them, columns as in emuiavf/stats.py TX_COUNTERS */
    uint64_t due_ns;      /* with TAKE_LATER */
};

enum { TAKE_LATER = -1 };

enum { PUT_DROP = 1 };    /* frames that do not fit are dropped and counted, not left */

typedef struct RxFilterTable RxFilterTable;

/* One place frames go to (a VF, a TAP): any worker may call put(), it does its own locking. */
typedef struct FrameSink FrameSink;
struct FrameSink {
    /* Deliver the frames of `mask` in order.  Returns the accepted ones: delivered, or dropped for
     * a reason that waiting does not cure (counted).  Without PUT_DROP it stops at the first frame
     * that finds no room; a partly segmented frame has its cursor moved on. */
    uint32_t (*put)(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how);
    const RxFilterTable *filter;  /* published; NULL = receives everything */
    uint32_t member;
    uint64_t full_since;  /* since when somebody who was promised a share waits for room, or 0; atomic */
};

/* A time that never comes. */
#define FOREVER UINT64_MAX

/* Work of an endpoint beside frames (interrupt moderation): called every turn by one worker. */
typedef struct Poller Poller;
struct Poller {
    /* Returns the latest time (CLOCK_MONOTONIC ns) by which it wants to be called again, or
     * FOREVER. */
    uint64_t (*poll)(Poller *poller, uint64_t now_ns);
    const uint32_t *napping;  /* the engine's: the worker that calls poll() is about to sleep ... */
    int wake_fd;              /* ... and this eventfd ends its sleep */
};

/* Columns of a counter row, see emuiavf/stats.py. */
enum {
    RX_BYTES, RX_UNICAST, RX_MULTICAST, RX_BROADCAST, RX_DISCARDS, RX_UNKNOWN_PROTOCOL, RX_PACKETS,
    RX_NO_BUFFER, RX_TOO_LONG, RX_QUEUE_OFF, RX_BAD_ADDRESS, RX_INTERRUPTS, RX_CSUM_BAD,
    RX_DISCARDED_BYTES, RX_RULE_DROPS,
};
enum {
    TX_BYTES, TX_UNICAST, TX_MULTICAST, TX_BROADCAST, TX_DISCARDS, TX_ERRORS, TX_PACKETS,
    TX_SEGMENTS, TX_MALICIOUS, TX_SPOOFED, TX_HELD, TX_INTERRUPTS, TX_FILTERED,
    TX_STORM,
};
enum { ROW_COUNTERS = 16 };

#endif
