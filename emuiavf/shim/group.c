/* An IOMMU group with one device: /dev/vfio/NUMBER.  Errors are those of drivers/vfio/group.c.
 *
 * Its file in the private folder holds the PCI address and the path of the socket, a line each.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "real.h"
#include "shim.h"

enum { MAX_GROUPS = 256 };

/* Open ones: a group has one opener at a time. */
static struct group *open_groups[MAX_GROUPS];

static void leave_container(struct group *group)
{
    struct container *container = group->container;

    container_remove(container, group);
    group->container = NULL;
    object_drop(&container->base);
}

static void group_release(struct object *object)
{
    struct group *group = (struct group *)object;

    if (group->container)
        leave_container(group);
    for (int i = 0; i < MAX_GROUPS; i++)
        if (open_groups[i] == group)
            open_groups[i] = NULL;
    free(group->path);
    free(group);
}

/* The two lines of a group's file. */
static int read_file(const char *name, struct group *group)
{
    FILE *file = real()->fopen(name, "re");
    char path[PATH_MAX + 2];
    char address[ADDRESS_CHARS + 2];

    if (file == NULL)
        return errno;
    bool whole = fgets(address, sizeof(address), file) && fgets(path, sizeof(path), file);
    fclose(file);
    if (!whole)
        return EIO;
    address[strcspn(address, "\n")] = 0;
    path[strcspn(path, "\n")] = 0;
    if (strlen(address) >= sizeof(group->address))
        return EIO;
    strcpy(group->address, address);
    group->path = strdup(path);
    return group->path ? 0 : ENOMEM;
}

int group_open(const char *file, int number, struct group **opened)
{
    int slot = -1;

    for (int i = 0; i < MAX_GROUPS; i++) {
        if (open_groups[i] && open_groups[i]->number == number)
            return EBUSY;
        if (open_groups[i] == NULL && slot < 0)
            slot = i;
    }
    struct group *group = calloc(1, sizeof(*group));
    if (group == NULL || slot < 0) {
        free(group);
        return ENOMEM;
    }
    group->base = (struct object){.kind = KIND_GROUP, .release = group_release};
    group->number = number;
    int error = read_file(file, group);
    if (error) {
        free(group->path);
        free(group);
        return error;
    }
    open_groups[slot] = group;
    *opened = group;
    return 0;
}

static int get_status(const struct group *group, void *argument)
{
    struct vfio_group_status status;

    memcpy(&status, argument, sizeof(uint32_t));
    if (status.argsz < sizeof(status))
        return EINVAL;
    status.flags = VFIO_GROUP_FLAGS_VIABLE;
    if (group->container)
        status.flags |= VFIO_GROUP_FLAGS_CONTAINER_SET;
    memcpy(argument, &status, sizeof(status));
    return 0;
}

static int set_container(struct group *group, const void *argument)
{
    int fd;

    memcpy(&fd, argument, sizeof(fd));
    if (group->container)
        return EINVAL;
    struct object *object = object_of(fd);
    if (object == NULL || object->kind != KIND_CONTAINER)
        return refuse(EINVAL,
                      "group %d: descriptor %d is no container of emuiavf; devices of the kernel's "
                      "VFIO have to be in a container and a program of their own",
                      group->number, fd);
    group->container = (struct container *)object;
    object_hold(object);
    group->next = group->container->groups;
    group->container->groups = group;
    return 0;
}

static int unset_container(struct group *group)
{
    if (group->container == NULL)
        return EINVAL;
    if (group->device)
        return EBUSY;
    leave_container(group);
    return 0;
}

static int get_device(struct group *group, const char *name, int *fd)
{
    if (group->container == NULL || group->container->iommu == 0)
        return EINVAL;
    size_t length = strlen(group->address);
    if (strncmp(name, group->address, length) != 0)
        return ENODEV;
    if (name[length] == ' ')
        return EINVAL; /* a VF token, where none is needed */
    if (name[length] != 0)
        return ENODEV;
    struct device *device = group->device;
    if (device == NULL) {
        int error = device_open(group, &device);
        if (error)
            return error;
    }
    object_hold(&device->base);
    *fd = fd_new(&device->base, O_CLOEXEC);
    int error = *fd < 0 ? errno : 0;
    object_drop(&device->base);
    return error;
}

int group_ioctl(struct group *group, unsigned long request, void *argument, int *result)
{
    if (request == VFIO_GROUP_UNSET_CONTAINER)
        return unset_container(group);
    switch (request) {
    case VFIO_GROUP_GET_STATUS:
        return argument ? get_status(group, argument) : EFAULT;
    case VFIO_GROUP_SET_CONTAINER:
        return argument ? set_container(group, argument) : EFAULT;
    case VFIO_GROUP_GET_DEVICE_FD:
        return argument ? get_device(group, argument, result) : EFAULT;
    default:
        return refuse(ENOTTY, "/dev/vfio/%d: request %#lx is not served", group->number, request);
    }
}
