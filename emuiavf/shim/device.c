/* A VFIO PCI device: one vfio-user connection, one message per call.
 *
 * Errors are those of drivers/vfio/pci/vfio_pci_core.c; EIO once the server has left.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "real.h"
#include "shim.h"
#include "wire.h"

/* PCI_COMMAND of linux/pci_regs.h, in the region of the configuration space. */
#define COMMAND_OFFSET (((off_t)VFIO_PCI_CONFIG_REGION_INDEX << REGION_SHIFT) + 4)

static void device_release(struct object *object)
{
    struct device *device = (struct device *)object;

    client_close(&device->client);
    for (uint32_t i = 0; i < device->num_regions; i++)
        region_free(&device->regions[i]);
    device->group->device = NULL;
    object_drop(&device->group->base);
    free(device);
}

/* A fixed answer to a fixed question. */
static int ask(struct client *client, uint16_t command, void *body, size_t size)
{
    struct request request = {command, body, size, 0, 0, 0, 0};
    struct reply reply = {.data = body, .capacity = size};
    int error = client_ask(client, &request, &reply);

    if (error)
        return error;
    fd_drop(reply.fd);
    if (reply.size != size)
        return refuse(EPROTO, "%s: command %u: an answer of %zu bytes", client->name, command,
                      reply.size);
    return 0;
}

/* What does not change while the device is open. */
static int learn(struct device *device)
{
    struct wire_device_info info = {.argsz = sizeof(info)};
    const uint32_t irq_size = sizeof(struct vfio_irq_info);
    int error = ask(&device->client, WIRE_GET_INFO, &info, sizeof(info));

    if (error)
        return error;
    if (info.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX || info.num_regions > MAX_REGIONS ||
        info.num_irqs > MAX_IRQS || !(info.flags & VFIO_DEVICE_FLAGS_PCI))
        return refuse(EPROTO, "%s: this is no PCI device", device->client.name);
    device->flags = info.flags & (VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET);
    while (device->num_regions < info.num_regions) {
        uint32_t index = device->num_regions;
        error = region_ask(&device->client, index, &device->regions[index]);
        if (error)
            return error;
        device->num_regions++;
    }
    for (; device->num_irqs < info.num_irqs; device->num_irqs++) {
        struct vfio_irq_info *irq = &device->irqs[device->num_irqs];
        *irq = (struct vfio_irq_info){.argsz = irq_size, .index = device->num_irqs};
        error = ask(&device->client, WIRE_GET_IRQ_INFO, irq, irq_size);
        if (error)
            return error;
        if (irq->count == 0 && irqs_kept_here(device->num_irqs)) {
            irq->flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE;
            irq->count = 1;
            device->kept_irqs |= 1u << device->num_irqs;
        }
    }
    return 0;
}

int device_open(struct group *group, struct device **opened)
{
    struct device *device = calloc(1, sizeof(*device));

    if (device == NULL)
        return ENOMEM;
    int error = client_open(&device->client, group->path, group->address);
    if (error) {
        free(device);
        return error;
    }
    device->base = (struct object){KIND_DEVICE, 1, device_release};
    device->group = group;
    group->device = device;
    object_hold(&group->base);
    error = learn(device);
    if (error == 0)
        error = dma_replay(group->container, &device->client);
    /* Its descriptors are its references from now on. */
    device->base.refs = 0;
    if (error)
        device_release(&device->base);
    else
        *opened = device;
    return error;
}

static int get_info(const struct device *device, void *argument)
{
    struct vfio_device_info info = {0};
    const size_t least = offsetof(struct vfio_device_info, num_irqs) + sizeof(info.num_irqs);

    memcpy(&info.argsz, argument, sizeof(info.argsz));
    if (info.argsz < least)
        return EINVAL;
    info.flags = device->flags;
    info.num_regions = device->num_regions;
    info.num_irqs = device->num_irqs;
    memcpy(argument, &info, info.argsz < sizeof(info) ? least : sizeof(info));
    return 0;
}

static int get_region_info(const struct device *device, void *argument)
{
    struct vfio_region_info info;

    memcpy(&info, argument, sizeof(info.argsz));
    if (info.argsz < sizeof(info))
        return EINVAL;
    memcpy(&info, argument, sizeof(info));
    if (info.index >= device->num_regions)
        return EINVAL;
    return region_info(&device->regions[info.index], info.index, argument);
}

static int get_irq_info(const struct device *device, void *argument)
{
    struct vfio_irq_info info;

    memcpy(&info, argument, sizeof(info.argsz));
    if (info.argsz < sizeof(info))
        return EINVAL;
    memcpy(&info, argument, sizeof(info));
    if (info.index >= device->num_irqs)
        return EINVAL;
    info.flags = device->irqs[info.index].flags;
    info.count = device->irqs[info.index].count;
    memcpy(argument, &info, sizeof(info));
    return 0;
}

/* VFIO_DEVICE_RESET.  The kernel saves the configuration space and restores it; of what it would
 * restore, a vfio-user server forgets COMMAND, and with it the right to DMA. */
static int reset(struct device *device)
{
    struct request request = {.command = WIRE_RESET};
    uint16_t command;

    if (!(device->flags & VFIO_DEVICE_FLAGS_RESET))
        return EINVAL;
    if (device_read(device, &command, sizeof(command), COMMAND_OFFSET) != sizeof(command))
        return errno;
    int error = client_ask(&device->client, &request, NULL);
    if (error)
        return error;
    if (device_write(device, &command, sizeof(command), COMMAND_OFFSET) != sizeof(command))
        return errno;
    return 0;
}

int device_ioctl(struct device *device, unsigned long request, void *argument)
{
    if (request == VFIO_DEVICE_RESET)
        return reset(device);
    switch (request) {
    case VFIO_DEVICE_GET_INFO:
        return argument ? get_info(device, argument) : EFAULT;
    case VFIO_DEVICE_GET_REGION_INFO:
        return argument ? get_region_info(device, argument) : EFAULT;
    case VFIO_DEVICE_GET_IRQ_INFO:
        return argument ? get_irq_info(device, argument) : EFAULT;
    case VFIO_DEVICE_SET_IRQS:
        return argument ? irqs_set(device, argument) : EFAULT;
    case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
    case VFIO_DEVICE_PCI_HOT_RESET:
        return ENODEV; /* as for a device in no resettable slot or bus */
    default:
        return refuse(ENOTTY, "%s: request %#lx is not served", device->client.name, request);
    }
}

/* The region of an access and how much of it there is from `*offset` on; NULL with errno. */
static const struct region *region_at(const struct device *device, off_t at, uint32_t right,
                                      uint32_t *index, uint64_t *offset, size_t *size)
{
    uint64_t number = (uint64_t)at >> REGION_SHIFT;

    *offset = (uint64_t)at & ((UINT64_C(1) << REGION_SHIFT) - 1);
    *index = (uint32_t)number;
    if (at < 0 || number >= device->num_regions) {
        errno = EINVAL;
        return NULL;
    }
    const struct region *region = &device->regions[number];
    bool is_config = number == VFIO_PCI_CONFIG_REGION_INDEX;
    if (!(region->flags & right) || *offset >= region->size ||
        (is_config && *size > region->size - *offset)) {
        errno = is_config ? EFAULT : EINVAL;
        return NULL;
    }
    if (*size > region->size - *offset)
        *size = region->size - *offset;
    return region;
}

static ssize_t finish(size_t done, int error)
{
    if (done || error == 0)
        return (ssize_t)done;
    errno = error;
    return -1;
}

/* A part of an access; `data` is sent (REGION_WRITE) or filled (REGION_READ). */
static int read_part(struct client *client, struct wire_region_access *access, void *data)
{
    const size_t size = sizeof(*access) + access->count;
    struct request request = {WIRE_REGION_READ, access, sizeof(*access), 0, 0, 0, 0};
    struct reply reply = {.capacity = size, .data = malloc(size)};

    if (reply.data == NULL)
        return ENOMEM;
    int error = client_ask(client, &request, &reply);
    if (error == 0) {
        fd_drop(reply.fd);
        if (reply.size == size)
            memcpy(data, (char *)reply.data + sizeof(*access), access->count);
        else
            error = refuse(EIO, "%s: a read of %u bytes brought %zu", client->name, access->count,
                           reply.size);
    }
    free(reply.data);
    return error;
}

static int write_part(struct client *client, struct wire_region_access *access, const void *data)
{
    struct wire_region_access answer;
    struct request request = {
        WIRE_REGION_WRITE, access, sizeof(*access), data, access->count, 0, 0};
    struct reply reply = {.data = &answer, .capacity = sizeof(answer)};
    int error = client_ask(client, &request, &reply);

    if (error == 0)
        fd_drop(reply.fd);
    return error;
}

ssize_t device_read(struct device *device, void *data, size_t size, off_t at)
{
    struct wire_region_access access;
    uint64_t offset;
    size_t done = 0;
    int error = 0;

    if (!region_at(device, at, VFIO_REGION_INFO_FLAG_READ, &access.region, &offset, &size))
        return -1;
    while (error == 0 && done < size) {
        size_t left = size - done;
        access.offset = offset + done;
        access.count = left < device->client.max_data ? (uint32_t)left : device->client.max_data;
        error = read_part(&device->client, &access, (char *)data + done);
        if (error == 0)
            done += access.count;
    }
    return finish(done, error);
}

ssize_t device_write(struct device *device, const void *data, size_t size, off_t at)
{
    struct wire_region_access access;
    uint64_t offset;
    size_t done = 0;
    int error = 0;

    if (!region_at(device, at, VFIO_REGION_INFO_FLAG_WRITE, &access.region, &offset, &size))
        return -1;
    while (error == 0 && done < size) {
        size_t left = size - done;
        access.offset = offset + done;
        access.count = left < device->client.max_data ? (uint32_t)left : device->client.max_data;
        error = write_part(&device->client, &access, (const char *)data + done);
        if (error == 0)
            done += access.count;
    }
    return finish(done, error);
}

void *device_mmap(struct device *device, void *address, size_t size, int prot, int flags, off_t at)
{
    uint64_t number = (uint64_t)at >> REGION_SHIFT;
    uint64_t offset = (uint64_t)at & ((UINT64_C(1) << REGION_SHIFT) - 1);

    errno = EINVAL;
    if (at < 0 || number >= device->num_regions || size == 0 || !(flags & MAP_SHARED) ||
        offset % PAGE_BYTES || size > SIZE_MAX - PAGE_BYTES)
        return MAP_FAILED;
    const struct region *region = &device->regions[number];
    uint64_t pages = (size + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    if (!region_mappable(region, offset, pages)) {
        if (region->flags & VFIO_REGION_INFO_FLAG_MMAP)
            say("%s: region %u cannot be mapped as a whole; give the device doorbell=shared",
                device->client.name, (unsigned)number);
        errno = EINVAL;
        return MAP_FAILED;
    }
    return memory_mmap(address, size, prot, flags, region->fd,
                       (off_t)(region->fd_offset + offset));
}
