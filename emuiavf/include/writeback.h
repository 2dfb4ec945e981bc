/* What the device writes into a Rx descriptor when its buffer is filled: 32 bytes, per format.
 *
 * The format (RXDID) is a property of the ring.  Each function takes it as its first argument and is
 * always inlined: called with a constant, nothing of the other formats is left.
 * Reference: E810 datasheet, receive descriptors; AVF 1.0 for the legacy one.
 */
#ifndef EMUIAVF_WRITEBACK_H
#define EMUIAVF_WRITEBACK_H

#include "atomics.h"
#include "frame.h"

enum { RX_DESC_SIZE = 32 };

enum {
    RXDID_LEGACY = 1,
    RXDID_FLEX_NIC = 2, /* hash in qword 1, FDIR id in qword 3 */
    /* "comms": the same, with words of headers where the time would stand; see extract.h */
    RXDID_FLEX_GENERIC = 16, /* ... without any */
    RXDID_FLEX_VLAN = 17,
    RXDID_FLEX_IPV4 = 18,
    RXDID_FLEX_IPV6 = 19,
    RXDID_FLEX_IPV6_FLOW = 20,
    RXDID_FLEX_TCP = 21,
    RXDID_FLEX_OVS = 22, /* "comms OVS_1": hash and FDIR id the other way round */
    RXDID_FLEX_IP_OFFSET = 25,
};

/* Formats with words of headers, by bit. */
#define RXDID_EXTRACTING 0x23e0000u

/* Legacy, qword 1 */
enum {
    RXD_DD = 0x1,
    RXD_EOF = 0x2,
    RXD_L2TAG1P = 0x4,
    RXD_L3L4P = 0x8,
    RXD_CRCP = 0x10,
    RXD_UMBCAST_SHIFT = 9,
    RXD_FLM = 0x800, /* a flow director rule has matched */
    RXD_RSS_VALID = 0x3000,
    RXD_IPE_SHIFT = 22,
    RXD_L4E_SHIFT = 23,
    RXD_PTYPE_SHIFT = 30,
    RXD_LENGTH_SHIFT = 38,
};

/* Legacy, qword 2 (ext_status): the upper half of qword 3 has the id of a flow director rule. */
enum { RXD_FLEXBH_FD_ID = 0x10 };
/* qword 2 of both: a bit, and the second L2TAG2 in the highest 16 bits. */
enum { RXD_L2TAG2P = 0x1, RXF_L2TAG2P = 0x800, RX_L2TAG2_2_SHIFT = 48 };

/* Tags that were moved into the descriptor; the buffer ends with the FCS. */
enum { RX_L2TAG1 = 0x10, RX_L2TAG2 = 0x20, RX_CRC = 0x40 };

/* Flexible, qword 1 (status_error0); L2TAG1 above it. */
enum {
    RXF_DD = 0x1,
    RXF_EOF = 0x2,
    RXF_L3L4P = 0x8,
    RXF_IPE_SHIFT = 4,
    RXF_L4E_SHIFT = 5,
    RXF_CRCP = 0x800,
    RXF_RSS_VALID = 0x1000,
    RXF_L2TAG1P = 0x2000,
    RXF_L2TAG1_SHIFT = 16,
};

/* Flexible, qword 0, whose lowest byte is the RXDID */
enum { RXF_UMBCAST_SHIFT = 14, RXF_PTYPE_SHIFT = 16, RXF_LENGTH_SHIFT = 32 };

/* The time of a frame: qword 2 says that there is one, the upper half of qword 3 has the low 32 bits
 * of its nanoseconds.  A stamp is the latter with the former in its lowest bit, or 0. */
enum { RXF_STAMP_SHIFT = 24 };
#define STAMP_VALID 0x1u
#define STAMP_NS 0xFFFFFFFF00000000u

/* No rule with a mark has matched (trap 25). */
#define RXF_NO_FDIR_ID 0xFFFFFFFFu

/* The descriptor of one frame, without what differs between its buffers. */
typedef struct Writeback {
    uint64_t qword[4];
} Writeback;

#define WRITEBACK_INLINE static inline __attribute__((always_inline))

/* What follows from the flags of a frame alone.  `verdict`: FRAME_L4_BAD when found while copying.
 * `extra`: RX_*.  `stamp`: of a flexible format.  No branch on frame contents. */
WRITEBACK_INLINE Writeback writeback_base(uint32_t rxdid, uint64_t flags, uint32_t verdict,
                                          uint32_t extra, uint64_t stamp)
{
    uint64_t cast = flags / FRAME_MULTICAST & 3;
    /* The two flag bits make 0, 1, 3; the field wants 0, 1, 2. */
    cast -= cast >> 1;
    Writeback made = {{0, 0, 0, 0}};
    if (rxdid != RXDID_LEGACY) {
        made.qword[0] = rxdid | cast << RXF_UMBCAST_SHIFT;
        made.qword[1] = RXF_DD
                        | (uint64_t)((flags & (FRAME_IPV4 | FRAME_IPV6)) != 0) * RXF_L3L4P
                        | (uint64_t)((flags & FRAME_HASHED) != 0) * RXF_RSS_VALID
                        | (uint64_t)((extra & RX_L2TAG1) != 0) * RXF_L2TAG1P
                        | (uint64_t)((extra & RX_CRC) != 0) * RXF_CRCP
                        | (uint64_t)((flags & FRAME_IP_BAD) != 0) << RXF_IPE_SHIFT
                        | (uint64_t)((verdict & FRAME_L4_BAD) != 0) << RXF_L4E_SHIFT;
        made.qword[2] = (uint64_t)((extra & RX_L2TAG2) != 0) * RXF_L2TAG2P
                        | (stamp & STAMP_VALID) << RXF_STAMP_SHIFT;
        made.qword[3] = stamp & STAMP_NS;
        return made;
    }
    made.qword[1] = RXD_DD | cast << RXD_UMBCAST_SHIFT
                    | (uint64_t)((flags & (FRAME_IPV4 | FRAME_IPV6)) != 0) * RXD_L3L4P
                    | (uint64_t)((flags & FRAME_HASHED) != 0) * RXD_RSS_VALID
                    | (uint64_t)((extra & RX_L2TAG1) != 0) * RXD_L2TAG1P
                    | (uint64_t)((extra & RX_CRC) != 0) * RXD_CRCP
                    | (uint64_t)((flags & FRAME_IP_BAD) != 0) << RXD_IPE_SHIFT
                    | (uint64_t)((verdict & FRAME_L4_BAD) != 0) << RXD_L4E_SHIFT;
    made.qword[2] = (uint64_t)((extra & RX_L2TAG2) != 0) * RXD_L2TAG2P;
    return made;
}

/* The same with hash, packet type and the tags moved to L2TAG1 and L2TAG2 (0: none). */
WRITEBACK_INLINE Writeback writeback_of(uint32_t rxdid, const Writeback *base, const Frame *frame,
                                        uint64_t tag1, uint64_t tag2)
{
    Writeback made = *base;
    made.qword[2] |= tag2 << RX_L2TAG2_2_SHIFT;
    if (rxdid != RXDID_LEGACY) {
        uint64_t swapped = rxdid == RXDID_FLEX_OVS;
        made.qword[0] |= (uint64_t)frame->ptype << RXF_PTYPE_SHIFT;
        made.qword[1] |= tag1 << RXF_L2TAG1_SHIFT
                         | (uint64_t)(swapped ? RXF_NO_FDIR_ID : frame->hash) << 32;
        made.qword[3] |= swapped ? frame->hash : RXF_NO_FDIR_ID;
        return made;
    }
    made.qword[0] = (uint64_t)frame->hash << 32 | tag1 << 16;
    made.qword[1] |= (uint64_t)frame->ptype << RXD_PTYPE_SHIFT;
    return made;
}

/* What a rule has noted in the frame.  Apart, since most guests have no rules. */
WRITEBACK_INLINE void writeback_mark(uint32_t rxdid, Writeback *made, const Frame *frame)
{
    uint64_t mark = frame->mark;
    if (rxdid == RXDID_LEGACY && frame->flags & FRAME_MATCHED)
        made->qword[1] |= RXD_FLM;
    if (!(frame->flags & FRAME_MARKED))
        return;
    if (rxdid == RXDID_LEGACY) {
        made->qword[2] |= RXD_FLEXBH_FD_ID;
        made->qword[3] |= mark << 32;
    } else if (rxdid == RXDID_FLEX_OVS) {
        made->qword[1] = (uint32_t)made->qword[1] | mark << 32;
    } else {
        made->qword[3] = made->qword[3] >> 32 << 32 | mark;
    }
}

/* Of one buffer: the bytes in it, and whether the frame ends there. */
WRITEBACK_INLINE void writeback_end(uint32_t rxdid, Writeback *made, uint32_t length, uint32_t last)
{
    if (rxdid != RXDID_LEGACY) {
        made->qword[0] |= (uint64_t)length << RXF_LENGTH_SHIFT;
        made->qword[1] |= last ? RXF_EOF : 0;
    } else {
        made->qword[1] |= (last ? RXD_EOF : 0) | (uint64_t)length << RXD_LENGTH_SHIFT;
    }
}

/* Hand one descriptor over.  All 32 bytes: stale ones would read as a mark or a timestamp (trap 24).
 * DD goes last. */
WRITEBACK_INLINE void writeback_put(uint64_t *desc, const Writeback *made)
{
    store_relaxed_u64(desc + 2, made->qword[2]);
    store_relaxed_u64(desc + 3, made->qword[3]);
    store_relaxed_u64(desc, made->qword[0]);
    store_release_u64(desc + 1, made->qword[1]);
}

WRITEBACK_INLINE void writeback_store(uint32_t rxdid, uint64_t *desc, const Writeback *base,
                                      uint32_t length, uint32_t last)
{
    Writeback made = *base;
    writeback_end(rxdid, &made, length, last);
    writeback_put(desc, &made);
}

#endif
