/* Calls on open descriptors: control, access, mapping. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "real.h"
#include "shim.h"

static int control(struct object *object, unsigned long request, void *argument)
{
    struct guard guard;
    int result = 0, error;

    if (object->kind == KIND_DEVICE) {
        /* Without the state lock: other descriptors go on while the server works. */
        error = device_ioctl((struct device *)object, request, argument);
    } else {
        state_lock(&guard);
        error = object->kind == KIND_GROUP
                    ? group_ioctl((struct group *)object, request, argument, &result)
                    : container_ioctl((struct container *)object, request, argument, &result);
        state_unlock(&guard);
    }
    if (error == 0)
        return result;
    errno = error;
    return -1;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;

    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    /* All of VFIO's are of this type; FIONBIO, FIOCLEX and the like are the kernel's to answer. */
    struct object *object = _IOC_TYPE(request) == VFIO_TYPE ? object_get(fd) : NULL;
    if (object == NULL)
        return real()->ioctl(fd, request, argument);
    int result = control(object, (unsigned)request, argument);
    object_put(object);
    return result;
}

static ssize_t read_at(int fd, void *data, size_t size, off_t offset)
{
    struct object *object = object_get(fd);
    ssize_t done = -1;

    if (object == NULL)
        return real()->pread(fd, data, size, offset);
    if (object->kind == KIND_DEVICE)
        done = device_read((struct device *)object, data, size, offset);
    else
        errno = EINVAL;
    object_put(object);
    return done;
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset)
{
    struct object *object = object_get(fd);
    ssize_t done = -1;

    if (object == NULL)
        return real()->pwrite(fd, data, size, offset);
    if (object->kind == KIND_DEVICE)
        done = device_write((struct device *)object, data, size, offset);
    else
        errno = EINVAL;
    object_put(object);
    return done;
}

EXPORT ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    return read_at(fd, data, size, offset);
}

EXPORT ssize_t pread64(int fd, void *data, size_t size, off_t offset)
{
    return read_at(fd, data, size, offset);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return write_at(fd, data, size, offset);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    return write_at(fd, data, size, offset);
}

/* What pread becomes in programs built with _FORTIFY_SOURCE. */
ssize_t __pread_chk(int fd, void *data, size_t size, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *data, size_t size, off_t offset, size_t room);

EXPORT ssize_t __pread_chk(int fd, void *data, size_t size, off_t offset, size_t room)
{
    if (size > room)
        abort();
    return read_at(fd, data, size, offset);
}

EXPORT ssize_t __pread64_chk(int fd, void *data, size_t size, off_t offset, size_t room)
{
    return __pread_chk(fd, data, size, offset, room);
}

static void *map(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    struct object *object = flags & MAP_ANONYMOUS ? NULL : object_get(fd);
    void *where = MAP_FAILED;

    if (object == NULL)
        return memory_mmap(address, size, prot, flags, fd, offset);
    if (object->kind == KIND_DEVICE)
        where = device_mmap((struct device *)object, address, size, prot, flags, offset);
    else
        errno = ENODEV;
    object_put(object);
    return where;
}

EXPORT void *mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    return map(address, size, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    return map(address, size, prot, flags, fd, offset);
}

EXPORT int munmap(void *address, size_t size)
{
    return memory_munmap(address, size);
}

EXPORT void *mremap(void *address, size_t old_size, size_t new_size, int flags, ...)
{
    va_list arguments;

    va_start(arguments, flags);
    void *where = va_arg(arguments, void *);
    va_end(arguments);
    return memory_mremap(address, old_size, new_size, flags, where);
}
