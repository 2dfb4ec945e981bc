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

enum { RXDID_LEGACY = 1 };

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
    store_relaxed_u64(desc, made->qword[0]);
    store_release_u64(desc + 1, made->qword[1] | (last ? RXD_EOF : 0) | (uint64_t)length << RXD_LENGTH_SHIFT);
}

#endif
