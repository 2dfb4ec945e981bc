/* Clock, sleep and wake-up for threads that hold no GIL. */
#ifndef EMUIAVF_WAIT_H
#define EMUIAVF_WAIT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/futex.h>
#include <poll.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A number that grows by some thousands in some microseconds, whatever the CPU: to tell cheaply whether
 * it is worth it to read the clock, which waits for all loads before it (rdtsc does not). */
static inline uint64_t cpu_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return monotonic_ns();
#endif
}

/* CPU time of this thread. */
static inline uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Sleeps while *word == seen, at most timeout_ns; may return early. */
static inline void futex_wait(uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
    struct timespec t = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &t, NULL, 0);
}

static inline void futex_wake(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Asks for short turns on a CPU that this thread has to share, and gives them often.  Since Linux
 * 6.18 a thread that yields forfeits the rest of its slice, 3 ms by default: polling threads that
 * yield would get a thirtieth of such a CPU.  Kernels before 6.12 have no slice of a thread's own
 * and do nothing here. */
static inline void short_slice(uint64_t slice_ns)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr;
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0 && attr.policy == 0) {
        attr.runtime = slice_ns;
        syscall(SYS_sched_setattr, 0, &attr, 0);
    }
}

/* Sleeps of this thread end when they should, not up to 50 us later as Linux allows itself. */
static inline void exact_sleeps(void)
{
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
}

/* Adds 1 to an eventfd.  It is non-blocking: a full counter already means "signalled". */
static inline void event_signal(int fd)
{
    uint64_t one = 1;
    ssize_t done = write(fd, &one, sizeof one);
    (void)done;
}

/* The same for one that may be blocking: a full one is left alone.  It can be filled between the two
 * calls. */
static inline void event_signal_if_room(int fd)
{
    struct pollfd ready = {fd, POLLOUT, 0};
    if (poll(&ready, 1, 0) == 1 && ready.revents & POLLOUT)
        event_signal(fd);
}

static inline void event_clear(int fd)
{
    uint64_t count;
    ssize_t done = read(fd, &count, sizeof count);
    (void)done;
}

/* Waits for one of the fds or the time; timeout UINT64_MAX = no limit.  Returns whether it waited to
 * the end. */
static inline int poll_ns(struct pollfd *fds, uint32_t count, uint64_t timeout_ns)
{
    struct timespec t = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    return ppoll(fds, count, timeout_ns == UINT64_MAX ? NULL : &t, NULL) == 0;
}

#endif
