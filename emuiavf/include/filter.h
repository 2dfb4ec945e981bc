/* What one member of a switch wants to receive, and the table that joins the wishes of many.
 *
 * Both are immutable once published.  Addresses are their six bytes read as a little-endian number.
 */
#ifndef EMUIAVF_FILTER_H
#define EMUIAVF_FILTER_H

#include <string.h>

#include "frame.h"

enum {
    FILTER_PROMISC_UNICAST = 1,
    FILTER_PROMISC_MULTICAST = 2,
    FILTER_PRUNE_VLANS = 4,
};

struct RxFilterTable {
    uint64_t own;         /* the address nearly every frame carries */
    uint32_t flags;
    uint32_t slots_mask;  /* number of slots - 1, a power of two - 1; 0: no table */
    uint64_t vlans[64];   /* bit per VLAN id, with FILTER_PRUNE_VLANS */
    uint64_t slots[];     /* addresses, open addressing, 0 = empty */
};

static inline uint32_t mac_slot(uint64_t mac, uint32_t mask)
{
    return (uint32_t)((mac * 0x9e3779b97f4a7c15u) >> 40) & mask;
}

/* VLAN id of the outermost tag, or -1.  Reads the head only. */
static inline int frame_vlan_id(const Frame *frame)
{
    const uint8_t *p = frame->head + 12;
    uint16_t type;
    if (frame->head_len < 18)
        return -1;
    memcpy(&type, p, 2);
    if (type != 0x0081 && type != 0xa888 && type != 0x0091)
        return -1;
    return ((p[2] & 0x0f) << 8) | p[3];
}

static inline int filter_knows(const RxFilterTable *filter, uint64_t mac)
{
    if (filter->slots_mask == 0)
        return 0;
    for (uint32_t i = mac_slot(mac, filter->slots_mask);; i = (i + 1) & filter->slots_mask) {
        if (filter->slots[i] == mac)
            return 1;
        if (filter->slots[i] == 0)  /* never full: the builder leaves half of the slots empty */
            return 0;
    }
}

static inline int filter_accepts(const RxFilterTable *filter, const Frame *frame)
{
    if (frame->dst_mac != filter->own) {
        if (frame->flags & FRAME_MULTICAST) {
            if (!(frame->flags & FRAME_BROADCAST) && !(filter->flags & FILTER_PROMISC_MULTICAST) &&
                !filter_knows(filter, frame->dst_mac))
                return 0;
        } else if (filter->flags & FILTER_PROMISC_UNICAST) {
            return 1;
        } else if (!filter_knows(filter, frame->dst_mac)) {
            return 0;
        }
    }
    if ((filter->flags & (FILTER_PRUNE_VLANS | FILTER_PROMISC_UNICAST)) == FILTER_PRUNE_VLANS) {
        int vlan = frame_vlan_id(frame);
        if (vlan >= 0 && !(filter->vlans[vlan >> 6] >> (vlan & 63) & 1))
            return 0;
    }
    return 1;
}

enum { SWITCH_MEMBERS = 64 };

typedef struct SwitchEntry {
    uint64_t mac;
    uint64_t members;
} SwitchEntry;

typedef struct Switch {
    FrameSink *sinks[SWITCH_MEMBERS];  /* NULL: cannot receive */
    uint64_t all;                      /* members that can receive */
    uint64_t unknown;                  /* ... that get unicast for an address nobody has: ports */
    uint64_t promisc_unicast;          /* ... that also get unicast for others */
    uint64_t promisc_multicast;        /* ... that get every multicast: ports and all-multicast */
    uint64_t *vlans;                   /* members per VLAN id, 4096 of them; NULL: no pruning */
    uint32_t slots_mask;
    uint32_t unused;
    SwitchEntry slots[];
} Switch;

static inline uint64_t switch_find(const Switch *table, uint64_t mac)
{
    for (uint32_t i = mac_slot(mac, table->slots_mask);; i = (i + 1) & table->slots_mask) {
        if (table->slots[i].mac == mac)
            return table->slots[i].members;
        if (table->slots[i].mac == 0)
            return 0;
    }
}

/* The set of members that a frame goes to, its sender not among them. */
static inline uint64_t switch_route(const Switch *table, const Frame *frame, uint32_t from)
{
    uint64_t to;
    if (frame->flags & FRAME_BROADCAST) {
        to = table->all;
    } else {
        to = switch_find(table, frame->dst_mac);
        if (frame->flags & FRAME_MULTICAST)
            to |= table->promisc_multicast;
        else
            to = (to ? to : table->unknown) | table->promisc_unicast;
    }
    if (table->vlans != NULL) {
        int vlan = frame_vlan_id(frame);
        if (vlan >= 0)
            to &= table->vlans[vlan] | table->promisc_unicast;
    }
    return to & ~(1ull << from);
}

#endif
