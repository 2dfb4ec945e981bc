/* Calls that copy and close descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <unistd.h>

#include "real.h"
#include "shim.h"

EXPORT int close(int fd)
{
    return fd_close(fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    return fd_close_range(first, last, flags);
}

EXPORT void closefrom(int first)
{
    fd_close_range(first > 0 ? (unsigned)first : 0, UINT_MAX, 0);
}

static int do_dup(int fd, long argument, int flags)
{
    (void)argument;
    (void)flags;
    return real()->dup(fd);
}

static int do_dup2(int fd, long argument, int flags)
{
    (void)flags;
    return real()->dup2(fd, (int)argument);
}

static int do_dup3(int fd, long argument, int flags)
{
    return real()->dup3(fd, (int)argument, flags);
}

static int do_fcntl(int fd, long argument, int command)
{
    return real()->fcntl(fd, command, argument);
}

EXPORT int dup(int fd)
{
    return fd_copy(fd, -1, do_dup, 0, 0);
}

EXPORT int dup2(int fd, int onto)
{
    return fd_copy(fd, onto, do_dup2, onto, 0);
}

EXPORT int dup3(int fd, int onto, int flags)
{
    return fd_copy(fd, onto, do_dup3, onto, flags);
}

#define FCNTL(name)                                                                               \
    EXPORT int name(int fd, int command, ...)                                                     \
    {                                                                                             \
        va_list arguments;                                                                        \
        va_start(arguments, command);                                                             \
        long argument = va_arg(arguments, long);                                                  \
        va_end(arguments);                                                                        \
        if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)                                     \
            return fd_copy(fd, -1, do_fcntl, argument, command);                                  \
        return real()->fcntl(fd, command, argument);                                              \
    }

int fcntl64(int fd, int command, ...);
FCNTL(fcntl)
FCNTL(fcntl64)
