/* What the host imposes on one member: which frames it may send, and the VLAN it lives in.
 *
 * A port VLAN is a tag that the member never sees: put in front of what it sends, taken off what it
 * receives.  Both happen in the private heads of a burst and are undone before the burst goes on,
 * so that the source counts what its guest sent and the next member gets the frame as it was.
 */
#ifndef EMUIAVF_GUARD_H
#define EMUIAVF_GUARD_H

#include "filter.h"

enum {
    GUARD_MAC = 1,   /* the source address is one of its own */
    GUARD_VLAN = 2,  /* a tagged frame is of a VLAN that it has a filter for */
    GUARD_PORT = 4,  /* it sends no tagged frame, and each gets `tag` */
    GUARD_INNER = 8, /* ... but frames with a tag of TPID 0x8100, which becomes the inner one */
};

typedef struct Guard {
    const RxFilterTable *own;  /* with GUARD_MAC or GUARD_VLAN: its addresses and VLANs */
    uint32_t flags;
    uint8_t tag[ETHER_TAG];  /* as on the wire */
} Guard;

static inline int guard_passes(const Guard *guard, const Frame *frame)
{
    if (guard->flags & GUARD_MAC) {
        uint64_t source = frame_source(frame);
        if (source != guard->own->own && !filter_knows(guard->own, source))
            return 0;
    }
    if (guard->flags & GUARD_PORT)
        return frame_vlan_id(frame) < 0 ||
               ((guard->flags & GUARD_INNER) && frame_tpid(frame) == TPID_8100);
    return !(guard->flags & GUARD_VLAN) || filter_has_vlan(guard->own, frame);
}

/* What was parsed of a frame is of the frame as it was; what its sender asked for moves along. */
static inline void frame_grown(Frame *frame, int by)
{
    frame->head_len = (uint16_t)(frame->head_len + by);
    frame->len += (uint32_t)by;
    frame->l2_len = (uint16_t)(frame->l2_len + by);
    frame->flags &= ~(uint32_t)(FRAME_PARSED | FRAME_TAGGED);
}

/* Both addresses to where the head is to begin: by way of registers, a memmove would be a call. */
static inline void frame_move_addresses(Frame *frame, int by)
{
    uint64_t first;
    uint32_t last;
    memcpy(&first, frame->head, 8);
    memcpy(&last, frame->head + 8, 4);
    frame->head += by;
    memcpy(frame->head, &first, 8);
    memcpy(frame->head + 8, &last, 4);
}

static inline void frame_tag(Frame *frame, const uint8_t *tag)
{
    frame_move_addresses(frame, -ETHER_TAG);
    memcpy(frame->head + ETHER_ADDRESSES, tag, ETHER_TAG);
    frame_grown(frame, ETHER_TAG);
}

static inline void frame_untag(Frame *frame)
{
    frame_move_addresses(frame, ETHER_TAG);
    frame_grown(frame, -ETHER_TAG);
}

/* Judge a burst that a guarded member sends: what it may not send becomes FRAME_DROP, and is in the
 * mask that is returned; the rest gets its tag. */
static inline uint32_t guard_take(const Guard *guard, Burst *burst, int count)
{
    uint32_t spoofed = 0;
    for (int i = 0; i < count; i++) {
        Frame *frame = &burst->frames[i];
        if (frame->flags & FRAME_DROP)
            continue;
        if (!guard_passes(guard, frame)) {
            frame->flags |= FRAME_DROP;
            spoofed |= 1u << i;
        } else if (guard->flags & GUARD_PORT) {
            frame_tag(frame, guard->tag);
        }
    }
    return spoofed;
}

/* The frames are their sender's again. */
static inline void guard_done(const Guard *guard, Burst *burst, int count)
{
    if (!(guard->flags & GUARD_PORT))
        return;
    for (int i = 0; i < count; i++)
        if (!(burst->frames[i].flags & FRAME_DROP))
            frame_untag(&burst->frames[i]);
}

/* Put frames, all of them tagged, to a member behind a port VLAN. */
static inline uint32_t put_untagged(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how)
{
    uint8_t tags[BURST_FRAMES][ETHER_TAG];
    uint32_t left, accepted;
    for (left = mask; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        memcpy(tags[i], burst->frames[i].head + ETHER_ADDRESSES, ETHER_TAG);
        frame_untag(&burst->frames[i]);
    }
    accepted = sink->put(sink, burst, mask, how);
    for (left = mask; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        frame_tag(&burst->frames[i], tags[i]);
    }
    return accepted;
}

#endif
