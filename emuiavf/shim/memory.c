/* The file behind a range of the program's memory, which is what a device maps.
 *
 * The program's shared mappings of files are noted as it makes them, with a copy of the descriptor:
 * that needs no privilege.  For others the kernel is asked (/proc/self/map_files), which wants
 * CAP_CHECKPOINT_RESTORE.  Private memory belongs to the process alone and cannot be shared.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "real.h"
#include "shim.h"

struct file {
    dev_t device;
    ino_t inode;
    int fd;
    bool writable;
    unsigned refs; /* mappings and pieces */
    struct file *next;
};

struct mapping {
    uintptr_t start;
    uintptr_t end;
    uint64_t offset;
    struct file *file;
};

static pthread_mutex_t memory = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;
/* In the order of their addresses. */
static struct mapping *mappings;
static size_t num_mappings, room;
/* Where mappings are, to leave all other memory alone without the lock. */
static _Atomic uintptr_t lowest = UINTPTR_MAX, highest;

void memory_lock(struct guard *guard)
{
    guard_enter(guard);
    pthread_mutex_lock(&memory);
}

void memory_unlock(struct guard *guard)
{
    pthread_mutex_unlock(&memory);
    guard_leave(guard);
}

int file_fd(const struct file *file)
{
    return file->fd;
}

static void file_drop(struct file *file)
{
    if (--file->refs)
        return;
    for (struct file **at = &files; *at; at = &(*at)->next)
        if (*at == file) {
            *at = file->next;
            break;
        }
    fd_drop(file->fd);
    free(file);
}

/* The file of a descriptor, with a reference; `take` it or keep a copy of it.  NULL with errno. */
static struct file *file_of(int fd, bool take)
{
    struct stat found;
    struct file *file = NULL;
    int flags = real()->fcntl(fd, F_GETFL);

    if (flags < 0 || fstat(fd, &found) < 0)
        goto fail;
    bool writable = (flags & O_ACCMODE) == O_RDWR;
    for (file = files; file; file = file->next)
        if (file->inode == found.st_ino && file->device == found.st_dev &&
            file->writable == writable) {
            file->refs++;
            if (take)
                real()->close(fd);
            return file;
        }
    file = malloc(sizeof(*file));
    if (file == NULL)
        goto fail;
    *file = (struct file){found.st_dev, found.st_ino, -1, writable, 1, files};
    file->fd = fd_keep(take ? fd : real()->fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (file->fd < 0)
        goto fail;
    files = file;
    return file;
fail:
    free(file);
    if (take)
        real()->close(fd);
    return NULL;
}

/* The first mapping that ends above an address. */
static size_t first_above(uintptr_t address)
{
    size_t low = 0, high = num_mappings;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (mappings[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void settle(void)
{
    lowest = num_mappings ? mappings[0].start : UINTPTR_MAX;
    highest = num_mappings ? mappings[num_mappings - 1].end : 0;
}

static bool make_room(void)
{
    if (num_mappings < room)
        return true;
    size_t more = room ? room * 2 : 64;
    struct mapping *grown = realloc(mappings, more * sizeof(*mappings));
    if (grown == NULL)
        return false;
    mappings = grown;
    room = more;
    return true;
}

static void insert(size_t at, struct mapping mapping)
{
    memmove(&mappings[at + 1], &mappings[at], (num_mappings - at) * sizeof(*mappings));
    mappings[at] = mapping;
    num_mappings++;
}

/* A range is no longer what it was. */
static void forget(uintptr_t start, uintptr_t end)
{
    size_t at = first_above(start);

    if (at == num_mappings)
        return;
    if (mappings[at].start < start) {
        struct mapping tail = mappings[at];
        mappings[at].end = start;
        if (tail.end > end) {
            tail.offset += end - tail.start;
            tail.start = end;
            /* Without room only the tail is lost: the kernel is asked for it then. */
            if (make_room()) {
                tail.file->refs++;
                insert(at + 1, tail);
            }
            settle();
            return;
        }
        at++;
    }
    size_t last = at;
    while (last < num_mappings && mappings[last].end <= end)
        file_drop(mappings[last++].file);
    memmove(&mappings[at], &mappings[last], (num_mappings - last) * sizeof(*mappings));
    num_mappings -= last - at;
    if (at < num_mappings && mappings[at].start < end) {
        mappings[at].offset += end - mappings[at].start;
        mappings[at].start = end;
    }
    settle();
}

/* A range is this part of a file from now on; takes the reference. */
static void note(uintptr_t start, uintptr_t end, struct file *file, uint64_t offset)
{
    if (!make_room()) {
        file_drop(file);
        return;
    }
    insert(first_above(start), (struct mapping){start, end, offset, file});
    settle();
}

static uintptr_t end_of(const void *address, size_t size)
{
    uintptr_t start = (uintptr_t)address;
    uintptr_t pages = (size + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);

    return pages > UINTPTR_MAX - start ? UINTPTR_MAX : start + pages;
}

static bool concerns_us(const void *address, size_t size)
{
    return (uintptr_t)address < highest && end_of(address, size) > lowest;
}

void *memory_mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    bool shared = (flags & MAP_SHARED) && !(flags & MAP_ANONYMOUS) && fd >= 0;
    struct guard guard;
    struct stat found;

    if (!shared && !((flags & MAP_FIXED) && concerns_us(address, size)))
        return real()->mmap(address, size, prot, flags, fd, offset);
    memory_lock(&guard);
    void *where = real()->mmap(address, size, prot, flags, fd, offset);
    int kept = errno;
    if (where != MAP_FAILED) {
        uintptr_t end = end_of(where, size);
        forget((uintptr_t)where, end);
        if (shared && fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) {
            struct file *file = file_of(fd, false);
            if (file)
                note((uintptr_t)where, end, file, (uint64_t)offset);
        }
    }
    memory_unlock(&guard);
    errno = kept;
    return where;
}

int memory_munmap(void *address, size_t size)
{
    struct guard guard;

    if (!concerns_us(address, size))
        return real()->munmap(address, size);
    memory_lock(&guard);
    int result = real()->munmap(address, size);
    int kept = errno;
    if (result == 0)
        forget((uintptr_t)address, end_of(address, size));
    memory_unlock(&guard);
    errno = kept;
    return result;
}

void *memory_mremap(void *address, size_t old_size, size_t new_size, int flags, void *where)
{
    struct guard guard;
    struct mapping old = {0};

    memory_lock(&guard);
    void *result = real()->mremap(address, old_size, new_size, flags, where);
    int kept = errno;
    if (result != MAP_FAILED) {
        size_t at = first_above((uintptr_t)address);
        if (at < num_mappings && mappings[at].start <= (uintptr_t)address) {
            old = mappings[at];
            old.file->refs++;
        }
        if (old_size)
            forget((uintptr_t)address, end_of(address, old_size));
        forget((uintptr_t)result, end_of(result, new_size));
        if (old.file)
            note((uintptr_t)result, end_of(result, new_size), old.file,
                 old.offset + ((uintptr_t)address - old.start));
    }
    memory_unlock(&guard);
    errno = kept;
    return result;
}

struct pieces {
    struct piece *list;
    unsigned count;
    unsigned room;
};

/* Add a piece, or lengthen the last one; takes the reference. */
static int add_piece(struct pieces *pieces, struct file *file, uint64_t offset, uint64_t size)
{
    struct piece *last = pieces->count ? &pieces->list[pieces->count - 1] : NULL;

    if (last && last->file == file && last->offset + last->size == offset) {
        last->size += size;
        file_drop(file);
        return 0;
    }
    if (pieces->count == pieces->room) {
        unsigned more = pieces->room ? pieces->room * 2 : 1;
        struct piece *grown = realloc(pieces->list, more * sizeof(*grown));
        if (grown == NULL) {
            file_drop(file);
            return ENOMEM;
        }
        pieces->list = grown;
        pieces->room = more;
    }
    pieces->list[pieces->count++] = (struct piece){file, offset, size};
    return 0;
}

/* A part of the kernel's list of mappings. */
struct line_of_maps {
    uintptr_t start;
    uintptr_t end;
    uint64_t offset;
    char rights[5];
};

static int find_by_kernel(struct pieces *pieces, const struct line_of_maps *found, uintptr_t start,
                          uintptr_t end)
{
    char path[64];

    if (found->rights[3] != 's')
        return refuse(EFAULT,
                      "DMA memory at %#" PRIxPTR " is private to the program: no device in another "
                      "process can reach it; use shared memory (memfd, hugetlbfs)",
                      start);
    snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIxPTR "-%" PRIxPTR, found->start,
             found->end);
    int fd = real()->open(path, (found->rights[1] == 'w' ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return refuse(EFAULT,
                      "DMA memory at %#" PRIxPTR ": %s: %s (this takes CAP_CHECKPOINT_RESTORE, as "
                      "the program did not make the mapping through mmap or ran out of "
                      "descriptors)",
                      start, path, strerror(errno));
    struct file *file = file_of(fd, true);
    if (file == NULL)
        return errno;
    return add_piece(pieces, file, found->offset + (start - found->start), end - start);
}

/* Walks /proc/self/maps along [start, end). */
static int find_in_maps(struct pieces *pieces, uintptr_t start, uintptr_t end)
{
    FILE *list = real()->fopen("/proc/self/maps", "re");
    struct line_of_maps found;
    char *line = NULL;
    size_t size = 0;
    int error = 0;

    if (list == NULL)
        return refuse(EFAULT, "DMA memory: /proc/self/maps: %s", strerror(errno));
    while (error == 0 && start < end && getline(&line, &size, list) > 0) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64, &found.start, &found.end,
                   found.rights, &found.offset) != 4 ||
            found.end <= start)
            continue;
        if (found.start > start)
            break;
        uintptr_t until = found.end < end ? found.end : end;
        error = find_by_kernel(pieces, &found, start, until);
        start = until;
    }
    free(line);
    fclose(list);
    if (error == 0 && start < end)
        return refuse(EFAULT, "DMA memory at %#" PRIxPTR " is not mapped in the program", start);
    return error;
}

/* Walks what was noted, and asks the kernel for the gaps. */
static int find(struct pieces *pieces, uintptr_t start, uintptr_t end)
{
    size_t at = first_above(start);
    int error = 0;

    for (; error == 0 && start < end; at++) {
        bool noted = at < num_mappings && mappings[at].start < end;
        uintptr_t begin = noted ? mappings[at].start : end;
        if (start < begin) {
            error = find_in_maps(pieces, start, begin);
            start = begin;
        }
        if (error || !noted)
            break;
        uintptr_t until = mappings[at].end < end ? mappings[at].end : end;
        mappings[at].file->refs++;
        error = add_piece(pieces, mappings[at].file,
                          mappings[at].offset + (start - mappings[at].start), until - start);
        start = until;
    }
    return error;
}

static void drop_pieces(struct piece *pieces, unsigned num_pieces)
{
    for (unsigned i = 0; i < num_pieces; i++)
        file_drop(pieces[i].file);
    free(pieces);
}

int memory_find(uintptr_t start, size_t size, bool writable, struct piece **pieces,
                unsigned *num_pieces)
{
    struct pieces found = {0};
    struct guard guard;

    memory_lock(&guard);
    int error = find(&found, start, start + size);
    for (unsigned i = 0; error == 0 && writable && i < found.count; i++)
        if (!found.list[i].file->writable)
            error = refuse(EFAULT,
                           "DMA memory at %#" PRIxPTR " is a file that the program opened for "
                           "reading only",
                           start);
    if (error)
        drop_pieces(found.list, found.count);
    memory_unlock(&guard);
    *pieces = error ? NULL : found.list;
    *num_pieces = error ? 0 : found.count;
    return error;
}

void pieces_free(struct piece *pieces, unsigned num_pieces)
{
    struct guard guard;

    memory_lock(&guard);
    drop_pieces(pieces, num_pieces);
    memory_unlock(&guard);
}
