/* The preload library: Linux VFIO for a program, vfio-user towards the device.
 *
 *   calls_*.c   the libc calls that are looked at; each passes on what is not ours
 *   paths.c     which paths live in the private folder of `emuiavf exec`
 *   fds.c       which descriptors of the program are ours
 *   group.c container.c dma.c device.c irqs.c   the kernel's VFIO, as far as it is served
 *   regions.c   what the server says of its regions, judged once
 *   client.c    one vfio-user connection
 *   memory.c    the file behind a range of the program's memory
 *
 * Functions return 0 or a positive errno unless they say otherwise; the calls turn it into -1.
 * Lock order: the state lock (fds.c), then the memory lock (memory.c), then a connection's.
 */
#ifndef EMUIAVF_SHIM_H
#define EMUIAVF_SHIM_H

#include <linux/vfio.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))

enum {
    PAGE_BYTES = 4096,
    MAX_REGIONS = 16,
    MAX_IRQS = 16,
    ADDRESS_CHARS = 16,
    REGION_SHIFT = 40, /* as the kernel's VFIO_PCI_OFFSET_SHIFT */
};

/* say.c */

/* One line on stderr, whole; errno is kept. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* `error`, after one line that says why. */
int refuse(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* guard.c */

/* What holds one of our locks: a handler of the program that ran now, or a cancelled thread, would
 * leave it held. */
struct guard {
    sigset_t signals;
    int cancel;
};

void guard_enter(struct guard *guard);
void guard_leave(struct guard *guard);

/* paths.c */

/* The path to use for one that the program names: `own`, of PATH_MAX bytes, or the path itself. */
const char *redirect(const char *path, char *own);
/* Whether a VFIO character device of ours is meant; then `own` is its file in the private folder
 * and `*group` its number, or -1 for the container. */
bool is_vfio_file(const char *path, char *own, int *group);

/* fds.c */

enum kind { KIND_INTERNAL, KIND_CONTAINER, KIND_GROUP, KIND_DEVICE };

/* What one or more descriptors of the program stand for; freed with its last reference. */
struct object {
    enum kind kind;
    unsigned refs;
    void (*release)(struct object *object);
};

void state_lock(struct guard *guard);
void state_unlock(struct guard *guard);
/* With the state lock held. */
void object_hold(struct object *object);
void object_drop(struct object *object);

/* Whether a descriptor may be one of ours; cheap, for the calls that see all of them. */
bool fd_is_ours(int fd);
/* A reference to what a descriptor stands for, NULL when it is not ours; `object_put` gives it
 * back.  Without the state lock. */
struct object *object_get(int fd);
void object_put(struct object *object);
/* The same with the state lock held, without a reference. */
struct object *object_of(int fd);
/* A new descriptor of the program for an object; -1 with errno.  With the state lock held. */
int fd_new(struct object *object, int flags);

/* A descriptor of our own, moved out of the program's way; it belongs to the callee.  -1 stays. */
int fd_keep(int fd);
/* Close one that was kept. */
void fd_drop(int fd);

/* Calls of the program; the result and errno are the kernel's. */
int fd_close(int fd);
int fd_close_range(unsigned first, unsigned last, int flags);
/* `how` makes the copy; `onto` is the number that it replaces, or -1. */
int fd_copy(int fd, int onto, int (*how)(int fd, long argument, int flags), long argument,
            int flags);

/* client.c */

struct line; /* what all processes that share a connection must agree on */

struct client {
    int socket;
    struct line *line;
    const char *name; /* for messages */
    unsigned max_fds;
    uint32_t max_data;
};

struct request {
    uint16_t command;
    const void *head;
    size_t head_size;
    const void *data;
    size_t data_size;
    const int *fds;
    unsigned num_fds;
};

struct reply {
    void *data; /* first `capacity` bytes of the payload: longer ones end the connection */
    size_t capacity;
    size_t size;
    int fd; /* -1: none came; else kept, the caller's */
};

/* Connect and agree on a version. */
int client_open(struct client *client, const char *path, const char *name);
void client_close(struct client *client);
/* Send a command and wait for its answer.  An errno of the server's, or EIO when the connection
 * is over.  `reply` may be NULL where nothing is wanted of the payload. */
int client_ask(struct client *client, const struct request *request, struct reply *reply);

/* memory.c */

struct file; /* an open file of the program's that backs memory; counted */

struct piece {
    struct file *file;
    uint64_t offset;
    uint64_t size;
};

/* The files behind [start, start + size), joined where one follows the other; `*pieces` is the
 * caller's, for `pieces_free`.  Says why when it fails. */
int memory_find(uintptr_t start, size_t size, bool writable, struct piece **pieces,
                unsigned *num_pieces);
void pieces_free(struct piece *pieces, unsigned num_pieces);
int file_fd(const struct file *file);

/* The program's mmap, munmap and mremap, with a note of what they did. */
void *memory_mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset);
int memory_munmap(void *address, size_t size);
void *memory_mremap(void *address, size_t old_size, size_t new_size, int flags, void *where);
/* Held across fork. */
void memory_lock(struct guard *guard);
void memory_unlock(struct guard *guard);

/* dma.c */

struct dma_map {
    uint64_t iova;
    uint64_t size;
    uint32_t flags;
    bool joined; /* the devices know it as one with the map before it */
    unsigned num_pieces;
    struct piece *pieces;
};

/* The maps of a container, in the order of their IOVA. */
struct dma {
    struct dma_map *maps;
    size_t count;
    size_t room;
};

struct container;
struct client;

int dma_map(struct container *container, void *argument);
int dma_unmap(struct container *container, void *argument);
/* Tell a new device of the container of all maps. */
int dma_replay(struct container *container, struct client *client);
void dma_clear(struct dma *dma);

/* container.c */

struct group;

struct container {
    struct object base;
    unsigned iommu; /* VFIO_TYPE1_IOMMU or v2, 0 before SET_IOMMU */
    struct group *groups;
    struct dma dma;
};

struct container *container_new(void);
int container_ioctl(struct container *container, unsigned long request, void *argument,
                    int *result);
/* The last group of a container takes the maps and the IOMMU type with it. */
void container_remove(struct container *container, struct group *group);

/* group.c */

struct device;

struct group {
    struct object base;
    int number;
    char address[ADDRESS_CHARS];
    char *path; /* of the socket */
    struct container *container;
    struct group *next; /* in the container */
    struct device *device;
};

/* The group of a file in the private folder; EBUSY while it is open. */
int group_open(const char *file, int number, struct group **group);
int group_ioctl(struct group *group, unsigned long request, void *argument, int *result);

/* regions.c */

struct area {
    uint64_t start;
    uint64_t size;
};

struct region {
    uint32_t flags; /* VFIO_REGION_INFO_FLAG_READ, WRITE, MMAP */
    uint64_t size;
    int fd;
    uint64_t fd_offset;
    struct area *areas; /* that can be mapped */
    uint32_t num_areas;
};

int region_ask(struct client *client, uint32_t index, struct region *region);
void region_free(struct region *region);
/* VFIO_DEVICE_GET_REGION_INFO, from what is known. */
int region_info(const struct region *region, uint32_t index, void *argument);
/* Whether [start, start + size) may be mapped. */
bool region_mappable(const struct region *region, uint64_t start, uint64_t size);

/* device.c */

struct device {
    struct object base;
    struct group *group;
    struct client client;
    uint32_t flags;
    uint32_t num_regions;
    uint32_t num_irqs;
    struct region regions[MAX_REGIONS];
    struct vfio_irq_info irqs[MAX_IRQS];
    uint32_t kept_irqs; /* a bit for each index that the server has not and a program wants */
};

/* Connect to the server of a group and learn all that does not change. */
int device_open(struct group *group, struct device **device);
int device_ioctl(struct device *device, unsigned long request, void *argument);
/* The result of pread and pwrite, -1 with errno. */
ssize_t device_read(struct device *device, void *data, size_t size, off_t offset);
ssize_t device_write(struct device *device, const void *data, size_t size, off_t offset);
void *device_mmap(struct device *device, void *address, size_t size, int prot, int flags,
                  off_t offset);

/* irqs.c */

/* Whether an index may be answered without the server: the kernel has it for every device, and it
 * never fires here. */
bool irqs_kept_here(uint32_t index);
int irqs_set(struct device *device, const void *argument);

#endif
