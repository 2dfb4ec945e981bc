/* Guest memory as the data path sees it: an immutable table from IOVA to host pointer.
 *
 * Control builds a new MemMap for every change and publishes its pointer; workers read the pointer
 * once per turn.  Ranges are checked by subtraction only: a sum of guest numbers could wrap.
 */
#ifndef EMUIAVF_MEM_H
#define EMUIAVF_MEM_H

#include <stddef.h>
#include <stdint.h>

enum { MEM_READ = 1, MEM_WRITE = 2 };

/* A run of IOVA space that is contiguous in host memory and of one protection. */
typedef struct Extent {
    uint64_t iova;
    uint64_t size;
    uint8_t *host;
    uint64_t prot;
} Extent;

typedef struct MemMap {
    uint64_t generation;  /* no two maps have the same, not even at the same address */
    uint32_t num_extents;
    uint32_t unused;
    Extent extents[];  /* ascending, disjoint */
} MemMap;

static inline const Extent *mem_find(const MemMap *map, uint64_t iova)
{
    uint32_t low = 0, high = map->num_extents;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const Extent *extent = &map->extents[middle];
        if (iova < extent->iova)
            high = middle;
        else if (iova - extent->iova >= extent->size)
            low = middle + 1;
        else
            return extent;
    }
    return NULL;
}

/* Host pointer for [iova, iova + len), wholly inside one extent that grants `prot`; else NULL.
 * `hint` remembers the extent of the last success: it must be dropped (set to NULL) whenever the
 * map's generation has changed.  (Its address does not tell: a new map may lie where an old was.) */
static inline uint8_t *mem_translate(const MemMap *map, const Extent **hint, uint64_t iova,
                                     uint64_t len, uint64_t prot)
{
    const Extent *extent = *hint;
    if (__builtin_expect(extent == NULL || iova - extent->iova >= extent->size, 0)) {
        extent = mem_find(map, iova);
        if (extent == NULL)
            return NULL;
        *hint = extent;
    }
    uint64_t at = iova - extent->iova;
    if (__builtin_expect(len > extent->size - at || (extent->prot & prot) != prot, 0))
        return NULL;
    return extent->host + at;
}

/* The part of one extent where a range of up to a certain length may begin: for loops that translate
 * many addresses, one comparison each.  What lies elsewhere is asked of mem_translate. */
typedef struct MemReach {
    uint64_t iova;
    uint64_t size;  /* of the addresses at which a range may begin; 0: none */
    uint8_t *host;
} MemReach;

/* Around the hint, which may be NULL, for ranges of up to `len` bytes and `prot`. */
static inline MemReach mem_reach(const Extent *hint, uint64_t len, uint64_t prot)
{
    MemReach reach = {0, 0, NULL};
    if (hint != NULL && hint->size >= len && (hint->prot & prot) == prot) {
        reach.iova = hint->iova;
        reach.size = hint->size - len + 1;
        reach.host = hint->host;
    }
    return reach;
}

static inline uint8_t *mem_reached(const MemReach *reach, uint64_t iova)
{
    uint64_t at = iova - reach->iova;
    return __builtin_expect(at < reach->size, 1) ? reach->host + at : NULL;
}

#endif
