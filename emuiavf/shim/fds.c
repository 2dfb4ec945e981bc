/* Which descriptors of the program are ours, and what they stand for.
 *
 * A descriptor of the program is an unconnected socket: the kernel refuses reading, writing and
 * mapping it, and its inode tells whether the number still means what it did when it was noted.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "real.h"
#include "shim.h"

enum { MAX_FDS = 1 << 16, HIGHEST_BASE = 60000 };

static _Atomic(struct object *) objects[MAX_FDS];
static ino_t inodes[MAX_FDS];
static struct object internal = {.kind = KIND_INTERNAL};

static pthread_mutex_t state = PTHREAD_MUTEX_INITIALIZER;
static struct guard fork_state, fork_memory;
/* After vfork, or a bare clone, the tables are another process's. */
static _Atomic pid_t owner;

static void before_fork(void)
{
    state_lock(&fork_state);
    memory_lock(&fork_memory);
}

static void after_fork(void)
{
    memory_unlock(&fork_memory);
    state_unlock(&fork_state);
}

static void after_fork_in_child(void)
{
    owner = getpid();
    after_fork();
}

__attribute__((constructor)) static void begin(void)
{
    owner = getpid();
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

void state_lock(struct guard *guard)
{
    guard_enter(guard);
    pthread_mutex_lock(&state);
}

void state_unlock(struct guard *guard)
{
    pthread_mutex_unlock(&state);
    guard_leave(guard);
}

void object_hold(struct object *object)
{
    object->refs++;
}

void object_drop(struct object *object)
{
    if (--object->refs == 0)
        object->release(object);
}

bool fd_is_ours(int fd)
{
    return fd >= 0 && fd < MAX_FDS && objects[fd] != NULL && owner == getpid();
}

struct object *object_of(int fd)
{
    struct object *object = fd_is_ours(fd) ? objects[fd] : NULL;
    struct stat found;

    if (object == NULL || object == &internal)
        return NULL;
    /* Closed behind our back (fclose, a system call of its own)? */
    if (fstat(fd, &found) == 0 && S_ISSOCK(found.st_mode) && found.st_ino == inodes[fd])
        return object;
    objects[fd] = NULL;
    object_drop(object);
    return NULL;
}

struct object *object_get(int fd)
{
    struct guard guard;
    int kept = errno;

    if (!fd_is_ours(fd))
        return NULL;
    state_lock(&guard);
    struct object *object = object_of(fd);
    if (object)
        object_hold(object);
    state_unlock(&guard);
    errno = kept;
    return object;
}

void object_put(struct object *object)
{
    struct guard guard;
    int kept = errno;

    state_lock(&guard);
    object_drop(object);
    state_unlock(&guard);
    errno = kept;
}

/* Note that a descriptor stands for an object from now on; it takes a reference. */
static int enter(int fd, struct object *object)
{
    struct stat found;

    if (fd >= MAX_FDS || fstat(fd, &found) < 0) {
        real()->close(fd);
        errno = EMFILE;
        return -1;
    }
    object_hold(object);
    inodes[fd] = found.st_ino;
    objects[fd] = object;
    return fd;
}

/* What a descriptor stood for, to be dropped by the caller; it is the kernel's number again. */
static struct object *leave(int fd)
{
    struct object *object = object_of(fd);

    if (object)
        objects[fd] = NULL;
    return object;
}

int fd_new(struct object *object, int flags)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0);

    return fd < 0 ? -1 : enter(fd, object);
}

int fd_keep(int fd)
{
    struct rlimit limit;
    int base = HIGHEST_BASE;

    if (fd < 0)
        return fd;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < HIGHEST_BASE)
        base = (int)(limit.rlim_cur - limit.rlim_cur / 4);
    int high = real()->fcntl(fd, F_DUPFD_CLOEXEC, base);
    if (high >= 0) {
        real()->close(fd);
        fd = high;
    }
    if (fd < MAX_FDS)
        objects[fd] = &internal;
    return fd;
}

void fd_drop(int fd)
{
    if (fd < 0)
        return;
    if (fd < MAX_FDS)
        objects[fd] = NULL;
    real()->close(fd);
}

static bool is_internal(int fd)
{
    return fd_is_ours(fd) && objects[fd] == &internal;
}

int fd_close(int fd)
{
    struct guard guard;

    if (!fd_is_ours(fd))
        return real()->close(fd);
    if (is_internal(fd)) {
        /* A program that closes all numbers means its own. */
        errno = EBADF;
        return -1;
    }
    state_lock(&guard);
    struct object *object = leave(fd);
    int result = real()->close(fd);
    int kept = errno;
    if (object)
        object_drop(object);
    state_unlock(&guard);
    errno = kept;
    return result;
}

int fd_close_range(unsigned first, unsigned last, int flags)
{
    struct guard guard;
    unsigned from = first;
    int result = 0;

    if (owner != getpid() || first >= MAX_FDS || first > last || flags)
        return real()->close_range(first, last, flags);
    state_lock(&guard);
    for (unsigned fd = first; fd < MAX_FDS && fd <= last; fd++) {
        if (objects[fd] == NULL)
            continue;
        if (objects[fd] != &internal) {
            struct object *object = leave((int)fd);
            if (object)
                object_drop(object);
            continue;
        }
        if (from < fd)
            result |= real()->close_range(from, fd - 1, flags);
        from = fd + 1;
    }
    if (from <= last)
        result |= real()->close_range(from, last, flags);
    state_unlock(&guard);
    return result;
}

int fd_copy(int fd, int onto, int (*how)(int fd, long argument, int flags), long argument,
            int flags)
{
    struct guard guard;
    struct object *replaced = NULL;

    if (!fd_is_ours(fd) && !fd_is_ours(onto))
        return how(fd, argument, flags);
    if (is_internal(fd) || is_internal(onto)) {
        errno = EBADF;
        return -1;
    }
    state_lock(&guard);
    struct object *object = object_of(fd);
    int made = how(fd, argument, flags);
    int kept = errno;
    if (made >= 0 && made != fd) {
        /* The number is another file already: only our note of the old one is left. */
        if (made < MAX_FDS && made == onto) {
            replaced = objects[made];
            objects[made] = NULL;
        }
        if (object) {
            made = enter(made, object);
            kept = errno;
        }
        if (replaced)
            object_drop(replaced);
    }
    state_unlock(&guard);
    errno = kept;
    return made;
}
