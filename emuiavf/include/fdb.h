/* Addresses that were seen behind the ports of a switch: which port, and when last.
 *
 * A table of a fixed size.  An address has its place in one of two buckets, a cache line each, and
 * goes into the emptier one: so a look costs at most eight comparisons, however many addresses
 * there are, and a table that is two fifths full has room for every one.  When both are full the
 * address that was seen longest ago makes room.
 *
 * Workers read without a lock.  One that has something new to write takes the lock if it is free,
 * and learns with a later frame if it is not: nobody waits.
 */
#ifndef EMUIAVF_FDB_H
#define EMUIAVF_FDB_H

#include "atomics.h"
#include "frame.h"

enum {
    FDB_WAYS = 4,
    FDB_BUCKETS = 1 << 16,
    FDB_BUCKET_BITS = 16,
    FDB_MEMBER_BITS = 8,  /* of FdbEntry.seen; the rest is the second */
};

typedef struct FdbEntry {
    uint64_t key;   /* fdb_key(), 0: empty */
    uint64_t seen;  /* second << FDB_MEMBER_BITS | member */
} FdbEntry;

typedef struct FdbBucket {
    FdbEntry entries[FDB_WAYS] __attribute__((aligned(64)));
} FdbBucket;

typedef struct Fdb {
    FdbBucket *buckets;
    uint32_t lock;    /* held by who replaces a key */
    uint32_t age_s;   /* an address that was not seen for so long is not known */
    uint64_t evicted; /* addresses that were not old and had to make room */
} Fdb;

_Static_assert(sizeof(FdbBucket) == 64, "a bucket is one cache line");

/* The same address in two VLANs is two stations; a priority tag is no VLAN. */
static inline uint64_t fdb_key(uint64_t mac, int vlan)
{
    return mac | (uint64_t)(vlan > 0 ? vlan : 0) << 48;
}

static inline FdbBucket *fdb_bucket(const Fdb *fdb, uint64_t key, int which)
{
    if (which)
        key = (key ^ key >> 29) * 0xbf58476d1ce4e5b9u;
    return &fdb->buckets[key * 0x9e3779b97f4a7c15u >> (64 - FDB_BUCKET_BITS)];
}

/* Seconds since; none when another worker's clock was read a little later than ours. */
static inline uint32_t fdb_age(uint64_t seen, uint32_t now_s)
{
    int32_t age = (int32_t)(now_s - (uint32_t)(seen >> FDB_MEMBER_BITS));
    return age > 0 ? (uint32_t)age : 0;
}

/* The entry of a key, or NULL. */
static inline FdbEntry *fdb_entry(const Fdb *fdb, uint64_t key)
{
    for (int which = 0; which < 2; which++) {
        FdbBucket *bucket = fdb_bucket(fdb, key, which);
        for (int way = 0; way < FDB_WAYS; way++)
            if (load_acquire_u64(&bucket->entries[way].key) == key)
                return &bucket->entries[way];
    }
    return NULL;
}

/* The member that the address was last seen at, or -1. */
static inline int fdb_find(const Fdb *fdb, uint64_t key, uint32_t now_s)
{
    const FdbEntry *entry = fdb_entry(fdb, key);
    uint64_t seen;
    if (entry == NULL)
        return -1;
    seen = load_acquire_u64(&entry->seen);
    /* Another address may have got its place in between. */
    if (load_relaxed_u64(&entry->key) != key || fdb_age(seen, now_s) > fdb->age_s)
        return -1;
    return (int)(seen & ((1u << FDB_MEMBER_BITS) - 1));
}

/* A place for a new key: an empty or an old one in the emptier bucket, else the oldest of both. */
static inline FdbEntry *fdb_place(Fdb *fdb, uint64_t key, uint32_t now_s)
{
    FdbEntry *best = NULL, *oldest = NULL;
    uint32_t most = 0, age = 0;
    for (int which = 0; which < 2; which++) {
        FdbBucket *bucket = fdb_bucket(fdb, key, which);
        FdbEntry *unused = NULL;
        uint32_t room = 0;
        for (int way = 0; way < FDB_WAYS; way++) {
            FdbEntry *entry = &bucket->entries[way];
            uint32_t here = fdb_age(entry->seen, now_s);
            if (entry->key == 0 || here > fdb->age_s) {
                unused = entry;
                room++;
            } else if (oldest == NULL || here > age) {
                oldest = entry;
                age = here;
            }
        }
        if (room > most) {
            most = room;
            best = unused;
        }
    }
    if (best == NULL) {
        best = oldest;
        fdb->evicted++;
    }
    return best;
}

static inline void fdb_insert(Fdb *fdb, uint64_t key, uint64_t seen, uint32_t now_s)
{
    FdbEntry *entry;
    if (!try_lock(&fdb->lock))
        return;
    /* Another worker may have been quicker. */
    if (fdb_entry(fdb, key) == NULL) {
        entry = fdb_place(fdb, key, now_s);
        store_release_u64(&entry->key, 0);
        store_release_u64(&entry->seen, seen);
        store_release_u64(&entry->key, key);
    }
    spin_unlock(&fdb->lock);
}

/* The address was seen at `member`.  Writes nothing when that is known and of this second. */
static inline void fdb_learn(Fdb *fdb, uint64_t key, uint32_t member, uint32_t now_s)
{
    FdbEntry *entry = fdb_entry(fdb, key);
    uint64_t fresh = (uint64_t)now_s << FDB_MEMBER_BITS | member, seen;
    if (entry == NULL) {
        fdb_insert(fdb, key, fresh, now_s);
        return;
    }
    seen = load_relaxed_u64(&entry->seen);
    /* Only if nobody has given the place to another address meanwhile: that changes `seen`. */
    if (seen != fresh && load_relaxed_u64(&entry->key) == key)
        swap_if_u64(&entry->seen, seen, fresh);
}

#endif
