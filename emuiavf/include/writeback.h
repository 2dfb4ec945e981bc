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

enum {
    RXDID_LEGACY = 1,
    RXDID_FLEX_NIC = 2,  /* hash in qword 1, FDIR id in qword 3 */
    RXDID_FLEX_OVS = 22, /* "comms OVS_1": the other way round */
};

/* Legacy, qword 1 */
enum {
    RXD_DD = 0x1,
    RXD_EOF = 0x2,
    RXD_L2TAG1P = 0x4,
    RXD_L3L4P = 0x8,
    RXD_UMBCAST_SHIFT = 9,
    RXD_RSS_VALID = 0x3000,
    RXD_IPE_SHIFT = 22,
    RXD_L4E_SHIFT = 23,
    RXD_PTYPE_SHIFT = 30,
    RXD_LENGTH_SHIFT = 38,
};

/* Flexible, qword 1 (status_error0); L2TAG1 above it. */
enum {
    RXF_DD = 0x1,
    RXF_EOF = 0x2,
    RXF_L3L4P = 0x8,
    RXF_IPE_SHIFT = 4,
    RXF_L4E_SHIFT = 5,
    RXF_RSS_VALID = 0x1000,
    RXF_L2TAG1P = 0x2000,
    RXF_L2TAG1_SHIFT = 16,
};

/* Flexible, qword 0, whose lowest byte is the RXDID */
enum { RXF_UMBCAST_SHIFT = 14, RXF_PTYPE_SHIFT = 16, RXF_LENGTH_SHIFT = 32 };

/* No rule with a mark has matched (trap 25). */
#define RXF_NO_FDIR_ID 0xFFFFFFFFu

/* The descriptor of one frame, without what differs between its buffers. */
typedef struct Writeback {
    uint64_t qword[4];
} Writeback;

#define WRITEBACK_INLINE static inline __attribute__((always_inline))

/* `verdict`: FRAME_L4_BAD when found while copying.  `tagged`: the tag was moved into the descriptor.
 * No branch on frame contents. */
WRITEBACK_INLINE Writeback writeback_of(uint32_t rxdid, const Frame *frame, uint32_t verdict,
                                        uint32_t tagged)
{
    uint64_t flags = frame->flags, cast = flags / FRAME_MULTICAST & 3;
    uint64_t tag = tagged ? frame->vlan_tci : 0;
    /* The two flag bits make 0, 1, 3; the field wants 0, 1, 2. */
    cast -= cast >> 1;
    Writeback made = {{0, 0, 0, 0}};
    if (rxdid != RXDID_LEGACY) {
        uint64_t swapped = rxdid == RXDID_FLEX_OVS;
        made.qword[0] = rxdid | cast << RXF_UMBCAST_SHIFT | (uint64_t)frame->ptype << RXF_PTYPE_SHIFT;
        made.qword[1] = RXF_DD
                        | (uint64_t)((flags & (FRAME_IPV4 | FRAME_IPV6)) != 0) * RXF_L3L4P
                        | (uint64_t)((flags & FRAME_HASHED) != 0) * RXF_RSS_VALID
                        | (uint64_t)(tagged != 0) * RXF_L2TAG1P
                        | (uint64_t)((flags & FRAME_IP_BAD) != 0) << RXF_IPE_SHIFT
                        | (uint64_t)((verdict & FRAME_L4_BAD) != 0) << RXF_L4E_SHIFT
                        | tag << RXF_L2TAG1_SHIFT
                        | (uint64_t)(swapped ? RXF_NO_FDIR_ID : frame->hash) << 32;
        made.qword[3] = swapped ? frame->hash : RXF_NO_FDIR_ID;
        return made;
    }
    made.qword[0] = (uint64_t)frame->hash << 32 | tag << 16;
    made.qword[1] = RXD_DD | cast << RXD_UMBCAST_SHIFT
                    | (uint64_t)((flags & (FRAME_IPV4 | FRAME_IPV6)) != 0) * RXD_L3L4P
                    | (uint64_t)((flags & FRAME_HASHED) != 0) * RXD_RSS_VALID
                    | (uint64_t)(tagged != 0) * RXD_L2TAG1P
                    | (uint64_t)((flags & FRAME_IP_BAD) != 0) << RXD_IPE_SHIFT
                    | (uint64_t)((verdict & FRAME_L4_BAD) != 0) << RXD_L4E_SHIFT
                    | (uint64_t)frame->ptype << RXD_PTYPE_SHIFT;
    return made;
}

/* Hand one descriptor over.  All 32 bytes: stale ones would read as a mark or a timestamp (trap 24).
 * DD goes last. */
WRITEBACK_INLINE void writeback_store(uint32_t rxdid, uint64_t *desc, const Writeback *made,
                                      uint32_t length, uint32_t last)
{
    store_relaxed_u64(desc + 2, made->qword[2]);
    store_relaxed_u64(desc + 3, made->qword[3]);
    if (rxdid != RXDID_LEGACY) {
        store_relaxed_u64(desc, made->qword[0] | (uint64_t)length << RXF_LENGTH_SHIFT);
        store_release_u64(desc + 1, made->qword[1] | (last ? RXF_EOF : 0));
        return;
    }
    store_relaxed_u64(desc, made->qword[0]);
    store_release_u64(desc + 1, made->qword[1] | (last ? RXD_EOF : 0) | (uint64_t)length << RXD_LENGTH_SHIFT);
}

#endif
