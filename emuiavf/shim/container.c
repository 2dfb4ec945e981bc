/* The IOMMU container: /dev/vfio/vfio.  Errors are those of drivers/vfio/container.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

static void container_release(struct object *object)
{
    struct container *container = (struct container *)object;

    dma_clear(&container->dma);
    free(container);
}

struct container *container_new(void)
{
    struct container *container = calloc(1, sizeof(*container));

    if (container) {
        container->base.kind = KIND_CONTAINER;
        container->base.release = container_release;
    }
    return container;
}

void container_remove(struct container *container, struct group *group)
{
    for (struct group **at = &container->groups; *at; at = &(*at)->next)
        if (*at == group) {
            *at = group->next;
            break;
        }
    if (container->groups == NULL) {
        dma_clear(&container->dma);
        container->iommu = 0;
    }
}

static int set_iommu(struct container *container, unsigned long type)
{
    if (container->groups == NULL || container->iommu)
        return EINVAL;
    if (type != VFIO_TYPE1_IOMMU && type != VFIO_TYPE1v2_IOMMU)
        return ENODEV;
    container->iommu = (unsigned)type;
    return 0;
}

/* VFIO_IOMMU_GET_INFO: any page size, no capabilities. */
static int get_info(void *argument)
{
    struct vfio_iommu_type1_info info = {0};
    const size_t size = offsetof(struct vfio_iommu_type1_info, cap_offset);

    memcpy(&info.argsz, argument, sizeof(info.argsz));
    if (info.argsz < size)
        return EINVAL;
    info.flags = VFIO_IOMMU_INFO_PGSIZES;
    info.iova_pgsizes = ~(uint64_t)(PAGE_BYTES - 1);
    memcpy(argument, &info, info.argsz < sizeof(info) ? size : sizeof(info));
    return 0;
}

static bool has_extension(unsigned long extension)
{
    return extension == VFIO_TYPE1_IOMMU || extension == VFIO_TYPE1v2_IOMMU ||
           extension == VFIO_DMA_CC_IOMMU || extension == VFIO_UNMAP_ALL;
}

int container_ioctl(struct container *container, unsigned long request, void *argument,
                    int *result)
{
    switch (request) {
    case VFIO_GET_API_VERSION:
        *result = VFIO_API_VERSION;
        return 0;
    case VFIO_CHECK_EXTENSION:
        *result = has_extension((unsigned long)argument);
        return 0;
    case VFIO_SET_IOMMU:
        return set_iommu(container, (unsigned long)argument);
    default:
        break;
    }
    if (container->iommu == 0)
        return EINVAL;
    switch (request) {
    case VFIO_IOMMU_GET_INFO:
        return argument ? get_info(argument) : EFAULT;
    case VFIO_IOMMU_MAP_DMA:
        return argument ? dma_map(container, argument) : EFAULT;
    case VFIO_IOMMU_UNMAP_DMA:
        return argument ? dma_unmap(container, argument) : EFAULT;
    default:
        return refuse(ENOTTY, "/dev/vfio/vfio: request %#lx is not served", request);
    }
}
