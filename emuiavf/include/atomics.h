/* Loads, stores and exchanges with an order, for words shared with guests, workers and control.
 *
 * Cython has no words for memory order; these are the compiler's own builtins under names that say
 * what is relied on.
 */
#ifndef EMUIAVF_ATOMICS_H
#define EMUIAVF_ATOMICS_H

#include <sched.h>
#include <stdint.h>

static inline uint32_t load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint32_t load_seq_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_seq_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t exchange_u32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t add_u32(uint32_t *p, uint32_t v) { return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t or_u32(uint32_t *p, uint32_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
static inline void add_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
/* A lock for a few hundred nanoseconds: spins, then gives the CPU away to a holder that lost it. */
static inline void spin_lock(uint32_t *p)
{
    for (uint32_t tries = 0; __atomic_exchange_n(p, 1, __ATOMIC_ACQUIRE); tries++) {
        while (__atomic_load_n(p, __ATOMIC_RELAXED) && ++tries % 128)
            cpu_pause();
        if (tries >= 128)
            sched_yield();
    }
}
/* 1 when the lock was free and is now the caller's: for who has better things to do than to wait. */
static inline int try_lock(uint32_t *p)
{
    return !__atomic_load_n(p, __ATOMIC_RELAXED) && !__atomic_exchange_n(p, 1, __ATOMIC_ACQUIRE);
}
static inline void spin_unlock(uint32_t *p) { __atomic_store_n(p, 0, __ATOMIC_RELEASE); }
/* 1 when *p was `seen` and is now `wanted`; else 0 and nothing has changed. */
static inline int swap_if_u32(uint32_t *p, uint32_t seen, uint32_t wanted)
{
    return __atomic_compare_exchange_n(p, &seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
static inline int swap_if_u64(uint64_t *p, uint64_t seen, uint64_t wanted)
{
    return __atomic_compare_exchange_n(p, &seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
/* Counts *p down by 1; 0 when it is 0 already. */
static inline int take_one(uint32_t *p)
{
    uint32_t seen = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (seen)
        if (__atomic_compare_exchange_n(p, &seen, seen - 1, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return 1;
    return 0;
}
/* Adds v to *p, which counts as `floor` when it is less. */
static inline void add_relaxed_from_u64(uint64_t *p, uint64_t floor, uint64_t v)
{
    uint64_t seen = __atomic_load_n(p, __ATOMIC_RELAXED), from;
    do
        from = seen < floor ? floor : seen;
    while (!__atomic_compare_exchange_n(p, &seen, from + v, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}
static inline void *load_acquire_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void *load_relaxed_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_seq_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline void fence_seq(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#endif
