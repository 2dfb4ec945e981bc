/* The DMA maps of a container: kept for devices that come later, and told to those that are there.
 *
 * Errors are those of the kernel's type 1 driver (drivers/vfio/vfio_iommu_type1.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"
#include "wire.h"

enum { MAX_MAPS = 65535 };

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

/* All pieces of a map, or none. */
static int tell_map(struct client *client, const struct dma_map *map)
{
    uint64_t iova = map->iova;
    int error = 0;

    for (unsigned i = 0; i < map->num_pieces; i++) {
        const struct piece *piece = &map->pieces[i];
        struct wire_dma_map body = {sizeof(body), map->flags, piece->offset, iova, piece->size};
        int fd = file_fd(piece->file);
        struct request request = {WIRE_DMA_MAP, &body, sizeof(body), 0, 0, &fd, 1};
        error = client_ask(client, &request, NULL);
        if (error)
            break;
        iova += piece->size;
    }
    if (error && iova != map->iova)
        tell_unmap(client, map->iova, iova - map->iova);
    return error;
}

int dma_replay(const struct dma *dma, struct client *client)
{
    int error = 0;

    for (size_t i = 0; error == 0 && i < dma->count; i++)
        error = tell_map(client, &dma->maps[i]);
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

static int tell_all(struct container *container, const struct dma_map *map)
{
    for (struct group *group = container->groups; group; group = group->next) {
        if (group->device == NULL)
            continue;
        int error = tell_map(&group->device->client, map);
        if (!is_refusal(error))
            continue;
        for (struct group *told = container->groups; told != group; told = told->next)
            if (told->device)
                tell_unmap(&told->device->client, map->iova, map->size);
        return refuse(error, "%s: the server refused a DMA map at %#" PRIx64 ": %s", group->address,
                      map->iova, strerror(error));
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
    struct dma_map map = {asked.iova, asked.size, asked.flags, 0, NULL};
    error = memory_find((uintptr_t)asked.vaddr, asked.size, asked.flags & VFIO_DMA_MAP_FLAG_WRITE,
                        &map.pieces, &map.num_pieces);
    if (error)
        return error;
    error = tell_all(container, &map);
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
    for (size_t i = from; i < to; i++) {
        for (struct group *group = container->groups; group; group = group->next)
            if (group->device)
                tell_unmap(&group->device->client, dma->maps[i].iova, dma->maps[i].size);
        unmapped += dma->maps[i].size;
        pieces_free(dma->maps[i].pieces, dma->maps[i].num_pieces);
    }
    memmove(&dma->maps[from], &dma->maps[to], (dma->count - to) * sizeof(*dma->maps));
    dma->count -= to - from;
    memcpy((char *)argument + offsetof(struct vfio_iommu_type1_dma_unmap, size), &unmapped,
           sizeof(unmapped));
    return 0;
}
