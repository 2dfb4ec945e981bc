/* The DMA maps of a container: kept for devices that come later, and told to those that are there.
 *
 * A program without hugepages makes a map for every 4 KiB, often before it opens its device.  A first
 * device is told of such runs as one map each, an extent: where the program later takes away a part
 * of one, the whole is unmapped and the rest mapped anew.
 *
 * Errors are those of the kernel's type 1 driver (drivers/vfio/vfio_iommu_type1.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"
#include "wire.h"

enum {
    MAX_MAPS = 1 << 20, /* the kernel's limit is 65535 unless configured */
    SMALL = 1 << 21,    /* maps below a hugepage are joined */
};

/* The first map that ends above an IOVA.  The last byte is compared: a map may end at 2^64. */
static size_t first_above(const struct dma *dma, uint64_t iova)
{
    size_t low = 0, high = dma->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (dma->maps[middle].iova + (dma->maps[middle].size - 1) >= iova)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int tell_unmap(struct client *client, uint64_t iova, uint64_t size)
{
    struct wire_dma_unmap body = {sizeof(body), 0, iova, size}, answer;
    struct request request = {WIRE_DMA_UNMAP, &body, sizeof(body), 0, 0, 0, 0};
    struct reply reply = {.data = &answer, .capacity = sizeof(answer)};
    int error = client_ask(client, &request, &reply);

    if (error == 0)
        fd_drop(reply.fd);
    return error;
}

static int tell_piece(struct client *client, uint64_t iova, uint32_t flags, const struct piece *piece)
{
    struct wire_dma_map body = {sizeof(body), flags, piece->offset, iova, piece->size};
    int fd = file_fd(piece->file);
    struct request request = {WIRE_DMA_MAP, &body, sizeof(body), 0, 0, &fd, 1};

    return client_ask(client, &request, NULL);
}

/* Whether a piece goes on where another ends, in the same file. */
static bool goes_on(const struct piece *piece, const struct piece *last)
{
    return piece->file == last->file && piece->offset == last->offset + last->size;
}

/* Map the extent of `maps`, neighbours in their order: all of it, or nothing. */
static int tell_map(struct client *client, const struct dma_map *maps, size_t count)
{
    struct piece joined = {0};
    uint64_t iova = maps[0].iova;
    int error = 0;

    for (size_t i = 0; error == 0 && i < count; i++)
        for (unsigned j = 0; error == 0 && j < maps[i].num_pieces; j++) {
            const struct piece *piece = &maps[i].pieces[j];
            if (joined.size && goes_on(piece, &joined)) {
                joined.size += piece->size;
                continue;
            }
            if (joined.size) {
                error = tell_piece(client, iova, maps[0].flags, &joined);
                iova += error ? 0 : joined.size;
            }
            joined = *piece;
        }
    if (error == 0)
        error = tell_piece(client, iova, maps[0].flags, &joined);
    if (error && iova != maps[0].iova)
        tell_unmap(client, maps[0].iova, iova - maps[0].iova);
    return error;
}

/* The first map behind the extent of a map. */
static size_t extent_end(const struct dma *dma, size_t at)
{
    do
        at++;
    while (at < dma->count && dma->maps[at].joined);
    return at;
}

static uint64_t size_of(const struct dma *dma, size_t from, size_t to)
{
    return dma->maps[to - 1].iova + dma->maps[to - 1].size - dma->maps[from].iova;
}

/* Join runs of small maps that lie side by side in one file. */
static void form_extents(struct dma *dma)
{
    for (size_t i = 0; i < dma->count; i++) {
        const struct dma_map *last = i ? &dma->maps[i - 1] : NULL;
        struct dma_map *map = &dma->maps[i];
        map->joined = last && map->size < SMALL && last->size < SMALL &&
                      map->flags == last->flags && map->iova == last->iova + last->size &&
                      map->num_pieces == 1 && last->num_pieces == 1 &&
                      goes_on(&map->pieces[0], &last->pieces[0]);
    }
}

int dma_replay(struct container *container, struct client *client)
{
    struct dma *dma = &container->dma;
    bool first = true;
    int error = 0;

    for (struct group *group = container->groups; group; group = group->next)
        first = first && (group->device == NULL || &group->device->client == client);
    if (first)
        form_extents(dma);
    for (size_t i = 0, end; error == 0 && i < dma->count; i = end) {
        end = extent_end(dma, i);
        error = tell_map(client, &dma->maps[i], end - i);
    }
    return error;
}

void dma_clear(struct dma *dma)
{
    for (size_t i = 0; i < dma->count; i++)
        pieces_free(dma->maps[i].pieces, dma->maps[i].num_pieces);
    free(dma->maps);
    *dma = (struct dma){0};
}

/* A device whose server has left takes no maps any more, as an unplugged one. */
static bool is_refusal(int error)
{
    return error && error != EIO;
}

/* Map an extent on every device of the container. */
static int tell_all(struct container *container, const struct dma_map *maps, size_t count)
{
    uint64_t size = maps[count - 1].iova + maps[count - 1].size - maps[0].iova;

    for (struct group *group = container->groups; group; group = group->next) {
        if (group->device == NULL)
            continue;
        int error = tell_map(&group->device->client, maps, count);
        if (!is_refusal(error))
            continue;
        for (struct group *told = container->groups; told != group; told = told->next)
            if (told->device)
                tell_unmap(&told->device->client, maps[0].iova, size);
        return refuse(error, "%s: the server refused a DMA map at %#" PRIx64 ": %s", group->address,
                      maps[0].iova, strerror(error));
    }
    return 0;
}

static int check_map(const struct dma *dma, const struct vfio_iommu_type1_dma_map *asked)
{
    const uint32_t rights = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

    if (asked->flags & ~rights || !(asked->flags & rights) || asked->size == 0 ||
        (asked->size | asked->iova | asked->vaddr) % PAGE_BYTES ||
        asked->size - 1 > UINT64_MAX - asked->iova || asked->size - 1 > UINT64_MAX - asked->vaddr)
        return EINVAL;
    size_t at = first_above(dma, asked->iova);
    if (at < dma->count && dma->maps[at].iova <= asked->iova + (asked->size - 1))
        return EEXIST;
    return dma->count >= MAX_MAPS ? ENOSPC : 0;
}

int dma_map(struct container *container, void *argument)
{
    struct dma *dma = &container->dma;
    struct vfio_iommu_type1_dma_map asked;

    memcpy(&asked, argument, sizeof(uint32_t));
    if (asked.argsz < sizeof(asked))
        return EINVAL;
    memcpy(&asked, argument, sizeof(asked));
    int error = check_map(dma, &asked);
    if (error)
        return error;
    if (dma->count == dma->room) {
        size_t more = dma->room ? dma->room * 2 : 64;
        struct dma_map *grown = realloc(dma->maps, more * sizeof(*grown));
        if (grown == NULL)
            return ENOMEM;
        dma->maps = grown;
        dma->room = more;
    }
    struct dma_map map = {.iova = asked.iova, .size = asked.size, .flags = asked.flags};
    error = memory_find((uintptr_t)asked.vaddr, asked.size, asked.flags & VFIO_DMA_MAP_FLAG_WRITE,
                        &map.pieces, &map.num_pieces);
    if (error)
        return error;
    error = tell_all(container, &map, 1);
    if (error) {
        pieces_free(map.pieces, map.num_pieces);
        return error;
    }
    size_t at = first_above(dma, map.iova);
    memmove(&dma->maps[at + 1], &dma->maps[at], (dma->count - at) * sizeof(map));
    dma->maps[at] = map;
    dma->count++;
    return 0;
}

/* The maps inside [iova, last]: `*from` to `*to`.  A map is never cut; type 1 without v2 takes one
 * that begins in the range as a whole. */
static int choose(const struct container *container, uint64_t iova, uint64_t last, size_t *from,
                  size_t *to)
{
    const struct dma *dma = &container->dma;
    size_t at = first_above(dma, iova);

    if (at < dma->count && dma->maps[at].iova < iova) {
        if (container->iommu == VFIO_TYPE1v2_IOMMU)
            return EINVAL;
        at++;
    }
    *from = at;
    while (at < dma->count && dma->maps[at].iova <= last) {
        uint64_t end = dma->maps[at].iova + (dma->maps[at].size - 1);
        if (end > last && container->iommu == VFIO_TYPE1v2_IOMMU)
            return EINVAL;
        at++;
    }
    *to = at;
    return 0;
}

/* Take the maps [from, to) from every device: whole extents, of which the rest comes back. */
static void take_away(struct container *container, size_t from, size_t to)
{
    struct dma *dma = &container->dma;
    size_t begin = from;

    while (begin && dma->maps[begin].joined)
        begin--;
    for (size_t i = begin, end; i < to; i = end) {
        end = extent_end(dma, i);
        for (struct group *group = container->groups; group; group = group->next)
            if (group->device)
                tell_unmap(&group->device->client, dma->maps[i].iova, size_of(dma, i, end));
        if (i < from)
            tell_all(container, &dma->maps[i], from - i);
        if (end > to) {
            dma->maps[to].joined = false;
            tell_all(container, &dma->maps[to], end - to);
        }
    }
}

int dma_unmap(struct container *container, void *argument)
{
    struct dma *dma = &container->dma;
    struct vfio_iommu_type1_dma_unmap asked;
    const size_t size = offsetof(struct vfio_iommu_type1_dma_unmap, data);
    size_t from = 0, to = dma->count;
    uint64_t unmapped = 0;

    memcpy(&asked, argument, sizeof(uint32_t));
    if (asked.argsz < size)
        return EINVAL;
    memcpy(&asked, argument, size);
    bool all = asked.flags == VFIO_DMA_UNMAP_FLAG_ALL;
    if (asked.flags && !all)
        return EINVAL;
    if (all) {
        if (asked.iova || asked.size)
            return EINVAL;
    } else {
        if (asked.size == 0 || (asked.size | asked.iova) % PAGE_BYTES ||
            asked.size - 1 > UINT64_MAX - asked.iova)
            return EINVAL;
        int error = choose(container, asked.iova, asked.iova + (asked.size - 1), &from, &to);
        if (error)
            return error;
    }
    if (from < to)
        take_away(container, from, to);
    for (size_t i = from; i < to; i++) {
        unmapped += dma->maps[i].size;
        pieces_free(dma->maps[i].pieces, dma->maps[i].num_pieces);
    }
    if (from < to)
        memmove(&dma->maps[from], &dma->maps[to], (dma->count - to) * sizeof(*dma->maps));
    dma->count -= to - from;
    memcpy((char *)argument + offsetof(struct vfio_iommu_type1_dma_unmap, size), &unmapped,
           sizeof(unmapped));
    return 0;
}
