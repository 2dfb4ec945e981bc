/* Calls that name a file. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>

#include "real.h"
#include "shim.h"

static int open_container(int flags)
{
    struct container *container = container_new();

    if (container == NULL) {
        errno = ENOMEM;
        return -1;
    }
    object_hold(&container->base);
    int fd = fd_new(&container->base, flags);
    object_drop(&container->base);
    return fd;
}

static int open_group(const char *file, int number, int flags)
{
    struct group *group;
    int error = group_open(file, number, &group);

    if (error) {
        errno = error;
        return -1;
    }
    object_hold(&group->base);
    int fd = fd_new(&group->base, flags);
    int kept = errno;
    object_drop(&group->base);
    errno = kept;
    return fd;
}

static int open_any(int folder, const char *path, int flags, mode_t mode)
{
    char own[PATH_MAX];
    struct guard guard;
    int group;

    if (is_vfio_file(path, own, &group)) {
        state_lock(&guard);
        int fd = group < 0 ? open_container(flags) : open_group(own, group, flags);
        int kept = errno;
        state_unlock(&guard);
        errno = kept;
        return fd;
    }
    path = redirect(path, own);
    return folder == AT_FDCWD ? real()->open(path, flags, mode)
                              : real()->openat(folder, path, flags, mode);
}

static mode_t mode_of(int flags, va_list arguments)
{
    return __OPEN_NEEDS_MODE(flags) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                                                                \
    EXPORT int name(const char *path, int flags, ...)                                             \
    {                                                                                             \
        va_list arguments;                                                                        \
        va_start(arguments, flags);                                                               \
        mode_t mode = mode_of(flags, arguments);                                                  \
        va_end(arguments);                                                                        \
        return open_any(AT_FDCWD, path, flags, mode);                                             \
    }
#define OPENAT(name)                                                                              \
    EXPORT int name(int folder, const char *path, int flags, ...)                                 \
    {                                                                                             \
        va_list arguments;                                                                        \
        va_start(arguments, flags);                                                               \
        mode_t mode = mode_of(flags, arguments);                                                  \
        va_end(arguments);                                                                        \
        return open_any(folder, path, flags, mode);                                               \
    }

/* What open and openat become in programs built with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int folder, const char *path, int flags);
int __openat64_2(int folder, const char *path, int flags);

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

EXPORT int __open_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}

EXPORT int __openat_2(int folder, const char *path, int flags)
{
    return open_any(folder, path, flags, 0);
}

EXPORT int __openat64_2(int folder, const char *path, int flags)
{
    return open_any(folder, path, flags, 0);
}

/* The rest only needs another path. */
#define PATH_CALL(result, name, same, parameters, arguments)                                      \
    EXPORT result name parameters                                                                 \
    {                                                                                             \
        char own[PATH_MAX];                                                                       \
        path = redirect(path, own);                                                               \
        return real()->same arguments;                                                            \
    }

PATH_CALL(FILE *, fopen, fopen, (const char *path, const char *mode), (path, mode))
PATH_CALL(FILE *, fopen64, fopen, (const char *path, const char *mode), (path, mode))
PATH_CALL(DIR *, opendir, opendir, (const char *path), (path))
PATH_CALL(int, stat, stat, (const char *path, struct stat *found), (path, found))
PATH_CALL(int, lstat, lstat, (const char *path, struct stat *found), (path, found))
PATH_CALL(int, fstatat, fstatat, (int folder, const char *path, struct stat *found, int flags),
          (folder, path, found, flags))
PATH_CALL(int, statx, statx,
          (int folder, const char *path, int flags, unsigned mask, struct statx *found),
          (folder, path, flags, mask, found))
PATH_CALL(int, access, access, (const char *path, int mode), (path, mode))
PATH_CALL(int, faccessat, faccessat, (int folder, const char *path, int mode, int flags),
          (folder, path, mode, flags))
PATH_CALL(ssize_t, readlink, readlink, (const char *path, char *target, size_t size),
          (path, target, size))
PATH_CALL(ssize_t, readlinkat, readlinkat,
          (int folder, const char *path, char *target, size_t size), (folder, path, target, size))
PATH_CALL(char *, realpath, realpath, (const char *path, char *resolved), (path, resolved))

/* The same layout on 64-bit machines. */
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "struct stat64");
PATH_CALL(int, stat64, stat, (const char *path, struct stat64 *found),
          (path, (struct stat *)found))
PATH_CALL(int, lstat64, lstat, (const char *path, struct stat64 *found),
          (path, (struct stat *)found))
PATH_CALL(int, fstatat64, fstatat,
          (int folder, const char *path, struct stat64 *found, int flags),
          (folder, path, (struct stat *)found, flags))
