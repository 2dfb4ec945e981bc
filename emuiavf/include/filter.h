/* What one member of a switch wants to receive, and the table that joins the wishes of many.
 *
 * Both are immutable once published.  Addresses are their six bytes read as a little-endian number.
 */
#ifndef EMUIAVF_FILTER_H
#define EMUIAVF_FILTER_H

#include <string.h>

#include "cpu.h"
#include "fdb.h"
#include "frame.h"

enum {
    FILTER_PROMISC_UNICAST = 1,
    FILTER_PROMISC_MULTICAST = 2,
    FILTER_PRUNE_VLANS = 4,
    FILTER_PORT_VLAN = 8,  /* one VLAN is its member's world: nothing else passes, no tag stays */
};

struct RxFilterTable {
    uint64_t own;         /* the address nearly every frame carries */
    uint32_t flags;
    uint32_t slots_mask;  /* number of slots - 1, a power of two - 1; 0: no table */
    uint64_t vlans[192];  /* bit per VLAN (frame_vlan), with FILTER_PRUNE_VLANS */
    uint64_t slots[];     /* addresses, open addressing, 0 = empty */
};

static inline uint32_t mac_slot(uint64_t mac, uint32_t mask)
{
    return (uint32_t)((mac * 0x9e3779b97f4a7c15u) >> 40) & mask;
}

static inline uint64_t frame_source(const Frame *frame)
{
    uint64_t word;
    memcpy(&word, frame->head + 6, 8);  /* no frame is shorter than 14 bytes */
    return word & FRAME_BROADCAST_MAC;
}

enum { TPID_8100 = 0x0081, TPID_88A8 = 0xa888, TPID_9100 = 0x0091 };  /* as loaded */

static inline uint32_t frame_tpid(const Frame *frame)
{
    uint16_t type;
    memcpy(&type, frame->head + 12, 2);
    return type;
}

/* VLAN id of the outermost tag, or -1.  Reads the head only. */
static inline int frame_vlan_id(const Frame *frame)
{
    const uint8_t *p = frame->head + 14;
    uint32_t type;
    if (frame->head_len < 18)
        return -1;
    type = frame_tpid(frame);
    if (type != TPID_8100 && type != TPID_88A8 && type != TPID_9100)
        return -1;
    return ((p[0] & 0x0f) << 8) | p[1];
}

/* The VLAN as an index: its id, and behind all ids of TPID 0x8100 those of 0x88a8, then 0x9100; or
 * -1. */
static inline int frame_vlan(const Frame *frame)
{
    int id = frame_vlan_id(frame);
    uint32_t type;
    if (id < 0)
        return id;
    type = frame_tpid(frame);
    return type == TPID_8100 ? id : id + (type == TPID_88A8 ? 4096 : 8192);
}

static inline int filter_knows(const RxFilterTable *filter, uint64_t mac)
{
    if (filter->slots_mask == 0)
        return 0;
    for (uint32_t i = mac_slot(mac, filter->slots_mask);; i = (i + 1) & filter->slots_mask) {
        if (filter->slots[i] == 0)  /* never full: the builder leaves half of the slots empty */
            return 0;
        if (filter->slots[i] == mac)
            return 1;
    }
}

/* May a frame of this VLAN, or of none, pass?  With FILTER_PRUNE_VLANS. */
static inline int filter_has_vlan(const RxFilterTable *filter, const Frame *frame)
{
    int vlan = frame_vlan(frame);
    if (vlan < 0)
        return !(filter->flags & FILTER_PORT_VLAN);
    return filter->vlans[vlan >> 6] >> (vlan & 63) & 1;
}

static inline int filter_accepts(const RxFilterTable *filter, const Frame *frame)
{
    if (frame->dst_mac != filter->own) {
        if (frame->flags & FRAME_MULTICAST) {
            if (!(frame->flags & FRAME_BROADCAST) && !(filter->flags & FILTER_PROMISC_MULTICAST) &&
                !filter_knows(filter, frame->dst_mac))
                return 0;
        } else if (!(filter->flags & FILTER_PROMISC_UNICAST) &&
                   !filter_knows(filter, frame->dst_mac)) {
            return 0;
        }
    }
    return !(filter->flags & FILTER_PRUNE_VLANS) || filter_has_vlan(filter, frame);
}

static inline int filter_strips(const RxFilterTable *filter)
{
    return filter->flags & FILTER_PORT_VLAN;
}

/* Whether it looks at nothing but the destination; `filter` NULL takes everything. */
static inline int filter_by_address(const RxFilterTable *filter)
{
    return filter == NULL || !(filter->flags & (FILTER_PRUNE_VLANS | FILTER_PORT_VLAN));
}

/* The common burst of frames that are not known to be alike, in a few instructions per frame: nothing
 * dropped, and all for the one address or nothing to ask.  0 when each frame has to be looked at. */
static inline int filter_accepts_all(const RxFilterTable *filter, const Frame *frames, int count)
{
    uint64_t others = 0, own = filter ? filter->own : 0;
    uint32_t flags = 0;
    for (int i = 0; i < count; i++) {
        others |= frames[i].dst_mac ^ own;
        flags |= frames[i].flags;
    }
    return !(flags & FRAME_DROP) &&
           (filter == NULL || (others == 0 && filter_by_address(filter)));
}

enum { SWITCH_MEMBERS = 64 };

typedef struct SwitchEntry {
    uint64_t mac;
    uint64_t members;
} SwitchEntry;

enum { SWITCH_VLANS = 3 * 4096, SWITCH_UNTAGGED = SWITCH_VLANS };

typedef struct Switch {
    FrameSink *sinks[SWITCH_MEMBERS];  /* NULL: cannot receive */
    uint64_t all;                      /* members that can receive */
    uint64_t unknown;                  /* ... that get unicast for an address nobody has: ports */
    uint64_t ports;                    /* members that others are behind, also those that only send */
    uint64_t promisc_unicast;          /* ... that also get unicast for others */
    uint64_t promisc_multicast;        /* ... that get every multicast: ports and all-multicast */
    uint64_t strips;                   /* ... that have a port VLAN: its tag is taken off */
    uint64_t *vlans;                   /* members per VLAN (frame_vlan), then of none; NULL: no pruning */
    Fdb *fdb;                          /* what is behind which port; NULL: there is one, or none */
    uint64_t storm_ns;                 /* one flooded frame of a source per so long; 0: no limit */
    uint32_t slots_mask;
    uint32_t promises;                 /* some member is promised a share: who waits for room comes first */
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

/* Whether frames of this member for one address all go the same way: it is none of the ports, whose
 * senders are looked at, and tags do not matter. */
static inline int switch_treats_alike(const Switch *table, uint32_t from)
{
    return !(table->ports >> from & 1) && table->vlans == NULL && table->fdb == NULL;
}

/* The set of members that a frame goes to.
 *
 * Never its sender, and of what comes from a port never who has its source address: that one sent
 * it, and the network has reflected it.  `flood` is set when nobody in particular was meant.
 */
BODY uint64_t switch_route(const Switch *table, const Frame *frame, uint32_t from, uint32_t now_s,
                           uint32_t *flood)
{
    uint64_t to, not_to = 1ull << from;
    int vlan = table->fdb != NULL ? frame_vlan_id(frame) : -1;
    if (table->ports & not_to) {
        uint64_t source = frame_source(frame);
        uint64_t owners = switch_find(table, source);
        not_to |= owners;
        /* Address 0 and groups send nothing. */
        if (table->fdb != NULL && owners == 0 && source != 0 && !(source & 1))
            fdb_learn(table->fdb, fdb_key(source, vlan), from, now_s);
    }
    if (frame->flags & FRAME_BROADCAST) {
        to = table->all;
        *flood = 1;
    } else {
        to = switch_find(table, frame->dst_mac);
        if (frame->flags & FRAME_MULTICAST) {
            to |= table->promisc_multicast;
            *flood = 1;
        } else {
            *flood = 0;
            if (to == 0) {
                int member = -1;
                if (table->fdb != NULL)
                    member = fdb_find(table->fdb, fdb_key(frame->dst_mac, vlan), now_s);
                *flood = member < 0;
                to = member < 0 ? table->unknown : table->all & 1ull << member;
            }
            to |= table->promisc_unicast;
        }
    }
    if (table->vlans != NULL) {
        int tag = frame_vlan(frame);
        to &= table->vlans[tag >= 0 ? tag : SWITCH_UNTAGGED];
    }
    return to & ~not_to;
}

#endif
