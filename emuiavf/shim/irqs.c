/* VFIO_DEVICE_SET_IRQS.  Checks are those of vfio_set_irqs_validate_and_prepare() of the kernel. */
#include <errno.h>
#include <string.h>

#include "shim.h"
#include "wire.h"

static int send_set(struct device *device, const struct vfio_irq_set *set, const void *data,
                    size_t size, const int *fds, unsigned num_fds)
{
    struct vfio_irq_set body = *set;
    struct request request = {WIRE_SET_IRQS, &body, sizeof(body), data, size, fds, num_fds};

    body.argsz = (uint32_t)(sizeof(body) + size);
    return client_ask(&device->client, &request, NULL);
}

/* A message has a descriptor for each of its vectors or for none, and not too many: runs of both
 * kinds follow each other. */
static int send_eventfds(struct device *device, const struct vfio_irq_set *set, const char *data)
{
    struct vfio_irq_set part = *set;
    int fds[16];
    uint32_t at = 0;
    int error = 0;

    while (error == 0 && at < set->count) {
        unsigned run = 0, most = device->client.max_fds;
        bool given = false;
        for (; at + run < set->count; run++) {
            int fd;
            memcpy(&fd, data + (at + run) * sizeof(fd), sizeof(fd));
            if (fd < -1)
                return EBADF;
            if (run == 0)
                given = fd >= 0;
            if ((fd >= 0) != given || (given && run == most))
                break;
            if (given)
                fds[run] = fd;
        }
        part.start = set->start + at;
        part.count = run;
        error = send_set(device, &part, NULL, 0, fds, given ? run : 0);
        at += run;
    }
    return error;
}

bool irqs_kept_here(uint32_t index)
{
    return index == VFIO_PCI_ERR_IRQ_INDEX || index == VFIO_PCI_REQ_IRQ_INDEX;
}

int irqs_set(struct device *device, const void *argument)
{
    const uint32_t known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
    const char *data = (const char *)argument + sizeof(struct vfio_irq_set);
    struct vfio_irq_set set;
    size_t each;

    memcpy(&set, argument, sizeof(set.argsz));
    if (set.argsz < sizeof(set))
        return EINVAL;
    memcpy(&set, argument, sizeof(set));
    if (set.index >= device->num_irqs || set.count >= UINT32_MAX - set.start || set.flags & ~known)
        return EINVAL;
    uint32_t vectors = device->irqs[set.index].count;
    if (set.start >= vectors || set.count > vectors - set.start)
        return EINVAL;
    switch (set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
    case VFIO_IRQ_SET_DATA_NONE:
        each = 0;
        break;
    case VFIO_IRQ_SET_DATA_BOOL:
        each = sizeof(uint8_t);
        break;
    case VFIO_IRQ_SET_DATA_EVENTFD:
        each = sizeof(int32_t);
        break;
    default:
        return EINVAL;
    }
    if (each && (set.count == 0 || set.argsz - sizeof(set) < set.count * each))
        return EINVAL;
    if (device->kept_irqs & 1u << set.index)
        return set.flags & VFIO_IRQ_SET_ACTION_TRIGGER ? 0 : EINVAL;
    if (each == sizeof(int32_t))
        return send_eventfds(device, &set, data);
    return send_set(device, &set, data, set.count * each, NULL, 0);
}
