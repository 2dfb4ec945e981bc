/* What the server says of a region, judged once; the program's questions are answered from it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "shim.h"
#include "wire.h"

enum { MAX_INFO = 1 << 16 };

void region_free(struct region *region)
{
    free(region->areas);
    fd_drop(region->fd);
    *region = (struct region){.fd = -1};
}

/* Copy the areas of a sparse-mmap capability, wherever the server put it in its answer; without
 * one, `at` is 0 and all of the region is an area. */
static bool take_areas(struct region *region, const char *info, size_t size, uint32_t at)
{
    struct vfio_region_info_cap_sparse_mmap cap;

    /* Capabilities only ever follow each other upwards, which bounds the loop. */
    while (at) {
        if (at > size || size - at < sizeof(cap.header))
            return false;
        memcpy(&cap.header, info + at, sizeof(cap.header));
        if (cap.header.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
            if (size - at < sizeof(cap))
                return false;
            memcpy(&cap, info + at, sizeof(cap));
            if (cap.nr_areas > (size - at - sizeof(cap)) / sizeof(struct area))
                return false;
            region->areas = calloc(cap.nr_areas ? cap.nr_areas : 1, sizeof(struct area));
            if (region->areas == NULL)
                return false;
            memcpy(region->areas, info + at + sizeof(cap), cap.nr_areas * sizeof(struct area));
            region->num_areas = cap.nr_areas;
            return true;
        }
        if (cap.header.next && cap.header.next <= at)
            return false;
        at = cap.header.next;
    }
    region->areas = calloc(1, sizeof(struct area));
    if (region->areas == NULL)
        return false;
    region->areas[0] = (struct area){0, region->size};
    region->num_areas = 1;
    return true;
}

/* Areas lie in the region and in the file that backs it. */
static bool areas_fit(const struct region *region)
{
    struct stat found;

    if (fstat(region->fd, &found) < 0 || !S_ISREG(found.st_mode) ||
        region->fd_offset % PAGE_BYTES || region->fd_offset > (uint64_t)found.st_size)
        return false;
    uint64_t backed = (uint64_t)found.st_size - region->fd_offset;
    for (uint32_t i = 0; i < region->num_areas; i++) {
        const struct area *area = &region->areas[i];
        if (area->start % PAGE_BYTES || area->size == 0 || area->size > region->size ||
            area->start > region->size - area->size || area->size > backed ||
            area->start > backed - area->size)
            return false;
    }
    return true;
}

int region_ask(struct client *client, uint32_t index, struct region *region)
{
    const uint32_t rights = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    struct vfio_region_info body = {.argsz = MAX_INFO, .index = index}, info;
    struct request request = {WIRE_GET_REGION_INFO, &body, sizeof(body), 0, 0, 0, 0};
    struct reply reply = {.capacity = MAX_INFO, .data = malloc(MAX_INFO)};

    *region = (struct region){.fd = -1};
    if (reply.data == NULL)
        return ENOMEM;
    int error = client_ask(client, &request, &reply);
    if (error == 0) {
        region->fd = reply.fd;
        if (reply.size < sizeof(info)) {
            error = refuse(EPROTO, "%s: region %u: a short answer", client->name, index);
            goto done;
        }
        memcpy(&info, reply.data, sizeof(info));
        region->size = info.size;
        region->flags = info.flags & rights;
        region->fd_offset = info.offset;
        if (info.size >> REGION_SHIFT) {
            error = refuse(EPROTO, "%s: region %u is too large", client->name, index);
            goto done;
        }
        if (region->fd < 0 || !(info.flags & VFIO_REGION_INFO_FLAG_MMAP))
            goto done;
        uint32_t at = info.flags & VFIO_REGION_INFO_FLAG_CAPS ? info.cap_offset : 0;
        if (take_areas(region, reply.data, reply.size, at) && areas_fit(region))
            region->flags |= VFIO_REGION_INFO_FLAG_MMAP;
        else
            error = refuse(EPROTO, "%s: region %u: its mappable areas make no sense", client->name,
                           index);
    }
done:
    free(reply.data);
    if (error)
        region_free(region);
    return error;
}

int region_info(const struct region *region, uint32_t index, void *argument)
{
    struct vfio_region_info info;
    struct vfio_region_info_cap_sparse_mmap cap = {
        .header = {.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1},
        .nr_areas = region->num_areas,
    };
    size_t areas = region->num_areas * sizeof(struct area);
    uint32_t needed = sizeof(info);

    memcpy(&info, argument, sizeof(info));
    uint32_t argsz = info.argsz;
    info.flags = region->flags;
    info.size = region->size;
    info.offset = (uint64_t)index << REGION_SHIFT;
    info.cap_offset = 0;
    if (region->flags & VFIO_REGION_INFO_FLAG_MMAP) {
        info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
        needed += sizeof(cap) + areas;
        if (argsz >= needed) {
            info.cap_offset = sizeof(info);
            memcpy((char *)argument + sizeof(info), &cap, sizeof(cap));
            memcpy((char *)argument + sizeof(info) + sizeof(cap), region->areas, areas);
        } else {
            info.argsz = needed;
        }
    }
    memcpy(argument, &info, sizeof(info));
    return 0;
}

bool region_mappable(const struct region *region, uint64_t start, uint64_t size)
{
    if (!(region->flags & VFIO_REGION_INFO_FLAG_MMAP))
        return false;
    /* Each round leaves an area behind, so there are at most as many. */
    for (uint32_t round = 0; size && round < region->num_areas; round++) {
        uint64_t before = size;
        for (uint32_t i = 0; size && i < region->num_areas; i++) {
            const struct area *area = &region->areas[i];
            if (start < area->start || start - area->start >= area->size)
                continue;
            uint64_t here = area->size - (start - area->start);
            here = here < size ? here : size;
            start += here;
            size -= here;
        }
        if (size == before)
            return false;
    }
    return size == 0;
}
