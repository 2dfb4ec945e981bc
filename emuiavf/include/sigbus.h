/* The SIGBUS guard: a page of guest memory that vanishes must not take the process with it.
 *
 * A client may shorten the file behind its RAM at any time; every access to the lost pages then
 * raises SIGBUS, in whatever thread makes it.  The handler lays a zero page over the page, marks
 * the device as broken and writes its eventfd; the access is then repeated and succeeds.  It
 * reads a registry without locks and makes system calls only.  Faults at addresses that are not
 * ours go to the handler that was there before.
 *
 * Registering and removing is for one thread at a time (callers hold the GIL).  To be included by
 * one module only: the registry is process-wide state.
 */
#ifndef EMUIAVF_SIGBUS_H
#define EMUIAVF_SIGBUS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Who is told.  Outlives its device as long as a numpy view holds pages, hence the count. */
typedef struct GuardOwner {
    uint32_t *broken;  /* set to 1; points at `spare` once the device is gone */
    uint32_t spare;
    int fault_fd;      /* an eventfd of our own, or -1 */
    uint64_t faults;   /* pages replaced so far */
    uint64_t refs;
} GuardOwner;

enum { GUARD_CHUNK = 4096, GUARD_CHUNKS = 1024, GUARD_READ_TRIES = 1 << 16 };
/* Pages of one owner that are replaced one by one: each splits a mapping, and a process has a
 * limited number of them.  From there on a fault replaces the whole range. */
enum { GUARD_SINGLE_PAGES = 256 };

typedef struct GuardSlot {
    uint32_t seq;  /* odd while the slot is being changed */
    int prot;
    uintptr_t start, size;  /* size 0: free */
    uintptr_t page_size;
    GuardOwner *owner;
    struct GuardSlot *next_free;
} GuardSlot;

static GuardSlot *guard_chunks[GUARD_CHUNKS];
static uint32_t guard_used;  /* slots ever used; the handler looks at no more */
static uint32_t guard_live;  /* slots in use */
static GuardSlot *guard_free;
static struct sigaction guard_previous;
static int guard_signal_passed_on;

static void guard_slot_set(GuardSlot *slot, uintptr_t start, uintptr_t size, uintptr_t page_size,
                           int prot, GuardOwner *owner)
{
    __atomic_add_fetch(&slot->seq, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->start, start, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->size, size, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->page_size, page_size, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->prot, prot, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->owner, owner, __ATOMIC_RELAXED);
    __atomic_add_fetch(&slot->seq, 1, __ATOMIC_SEQ_CST);
}

/* A consistent copy; 0 when the slot never stood still (then it is not the one that faulted: a
 * range is not changed while anyone may touch it). */
static int guard_slot_get(const GuardSlot *slot, GuardSlot *copy)
{
    for (int tries = 0; tries < GUARD_READ_TRIES; tries++) {
        uint32_t seq = __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE);
        copy->start = __atomic_load_n(&slot->start, __ATOMIC_RELAXED);
        copy->size = __atomic_load_n(&slot->size, __ATOMIC_RELAXED);
        copy->page_size = __atomic_load_n(&slot->page_size, __ATOMIC_RELAXED);
        copy->prot = __atomic_load_n(&slot->prot, __ATOMIC_RELAXED);
        copy->owner = __atomic_load_n(&slot->owner, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(seq & 1) && seq == __atomic_load_n(&slot->seq, __ATOMIC_RELAXED))
            return 1;
    }
    return 0;
}

static int guard_find(uintptr_t address, GuardSlot *found)
{
    uint32_t used = __atomic_load_n(&guard_used, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < used; i++)
        if (guard_slot_get(&guard_chunks[i / GUARD_CHUNK][i % GUARD_CHUNK], found) &&
            address - found->start < found->size)
            return 1;
    return 0;
}

/* 1 when the address is ours and can be touched again. */
static int guard_repair(uintptr_t address)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    GuardSlot slot;
    if (!guard_find(address, &slot))
        return 0;
    void *page = (void *)(address & ~(slot.page_size - 1));
    const int single =
        __atomic_load_n(&slot.owner->faults, __ATOMIC_SEQ_CST) < GUARD_SINGLE_PAGES &&
        mmap(page, slot.page_size, slot.prot, flags, -1, 0) != MAP_FAILED;
    if (!single && mmap((void *)slot.start, slot.size, slot.prot, flags, -1, 0) == MAP_FAILED)
        return 0;
    __atomic_add_fetch(&slot.owner->faults, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(slot.owner->broken, 1, __ATOMIC_SEQ_CST);
    if (slot.owner->fault_fd >= 0) {
        const uint64_t one = 1;
        ssize_t ignored = write(slot.owner->fault_fd, &one, sizeof one);
        (void)ignored;  /* full: whoever reads it has been told */
    }
    return 1;
}

static void guard_pass_on(int signum, siginfo_t *info, void *context)
{
    const int by_kill = info->si_code <= 0;
    /* Python's faulthandler prints, puts back what it found (perhaps us) and raises the signal
     * again: the second one must end the process. */
    const int again = by_kill && __atomic_exchange_n(&guard_signal_passed_on, 1, __ATOMIC_SEQ_CST);
    if ((guard_previous.sa_flags & SA_SIGINFO) && !again) {
        guard_previous.sa_sigaction(signum, info, context);
    } else if (guard_previous.sa_handler == SIG_IGN && by_kill) {
        return;
    } else if (guard_previous.sa_handler != SIG_DFL && guard_previous.sa_handler != SIG_IGN &&
               !again) {
        guard_previous.sa_handler(signum);
    } else {
        /* A fault repeats itself on return; a signal that was sent does not. */
        signal(signum, SIG_DFL);
        if (by_kill)
            raise(signum);
    }
}

static void guard_on_sigbus(int signum, siginfo_t *info, void *context)
{
    const int saved = errno;
    if (info->si_code <= 0 || !guard_repair((uintptr_t)info->si_addr))
        guard_pass_on(signum, info, context);
    errno = saved;
}

/* Puts the handler in front, also when somebody has replaced it since; 0 or an errno. */
static int guard_install(void)
{
    struct sigaction ours = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART}, now;
    ours.sa_sigaction = guard_on_sigbus;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) < 0)
        return errno;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == guard_on_sigbus)
        return 0;
    guard_previous = now;
    return sigaction(SIGBUS, &ours, NULL) < 0 ? errno : 0;
}

/* NULL when memory or slots have run out. */
static GuardSlot *guard_register(void *start, size_t size, size_t page_size, int prot,
                                 GuardOwner *owner)
{
    GuardSlot *slot = guard_free;
    if (slot != NULL) {
        guard_free = slot->next_free;
    } else {
        const uint32_t index = guard_used;
        if (index == GUARD_CHUNK * GUARD_CHUNKS)
            return NULL;
        if (index % GUARD_CHUNK == 0) {
            guard_chunks[index / GUARD_CHUNK] = calloc(GUARD_CHUNK, sizeof(GuardSlot));
            if (guard_chunks[index / GUARD_CHUNK] == NULL)
                return NULL;
        }
        slot = &guard_chunks[index / GUARD_CHUNK][index % GUARD_CHUNK];
        __atomic_store_n(&guard_used, index + 1, __ATOMIC_RELEASE);
    }
    guard_slot_set(slot, (uintptr_t)start, size, page_size, prot, owner);
    guard_live++;
    return slot;
}

static void guard_remove(GuardSlot *slot)
{
    guard_slot_set(slot, 0, 0, 0, 0, NULL);
    slot->next_free = guard_free;
    guard_free = slot;
    guard_live--;
}

/* Ranges registered by everybody, and those that keep `owner`. */
static uint64_t guard_ranges(void)
{
    return guard_live;
}

static uint64_t guard_owner_ranges(const GuardOwner *owner)
{
    return owner->refs - 1;
}

/* NULL without memory or when `fault_fd` (-1: none) cannot be duplicated. */
static GuardOwner *guard_owner_new(uint32_t *broken, int fault_fd)
{
    GuardOwner *owner = calloc(1, sizeof *owner);
    if (owner == NULL)
        return NULL;
    owner->broken = broken;
    owner->refs = 1;
    owner->fault_fd = fault_fd < 0 ? -1 : fcntl(fault_fd, F_DUPFD_CLOEXEC, 0);
    if (fault_fd >= 0 && owner->fault_fd < 0) {
        free(owner);
        return NULL;
    }
    return owner;
}

static void guard_owner_keep(GuardOwner *owner)
{
    owner->refs++;
}

/* The device goes: `broken` dies with it. */
static void guard_owner_orphan(GuardOwner *owner)
{
    __atomic_store_n(&owner->broken, &owner->spare, __ATOMIC_SEQ_CST);
}

static uint64_t guard_owner_faults(const GuardOwner *owner)
{
    return __atomic_load_n(&owner->faults, __ATOMIC_SEQ_CST);
}

static void guard_owner_drop(GuardOwner *owner)
{
    if (--owner->refs)
        return;
    if (owner->fault_fd >= 0)
        close(owner->fault_fd);
    free(owner);
}

#endif
