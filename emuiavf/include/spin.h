/* How long a worker with nothing to do spins before its first sleep (nap.h).
 *
 * Where short frames follow each other, as requests and answers do, it spins from one to the next: a
 * sleep and the wake-up would be most of a guest's round trip.  Not so with long frames: a guest is
 * quicker with fewer, larger bursts of those (tests/vm/test_speed.py: iperf3 to the host lost a sixth
 * by long spins).  And not where others want its CPU, such as the vCPU that is to send the next frame.
 *
 * No clock is read in here.
 */
#ifndef EMUIAVF_SPIN_H
#define EMUIAVF_SPIN_H

#include <stdint.h>

#define SPIN_SHORT_NS 20000u
/* So long where frames of at most SPIN_FRAME_LEN bytes have come SPIN_QUICK times in a row, each after
 * a wait of no more than that.  A longer wait halves the count, which ends at SPIN_QUICK_MOST: one
 * request that was late changes nothing. */
#define SPIN_LONG_NS 4000000u
#define SPIN_FRAME_LEN 512u
#define SPIN_QUICK 8u
#define SPIN_QUICK_MOST 16u
/* Others want its CPU when they had it for more than half of such a time that the worker was awake.
 * Spins are short for a while then. */
#define SPIN_WATCHED_NS 5000000u
#define SPIN_CROWDED_NS 20000000u

typedef struct Spin {
    uint64_t awake_ns;         /* since when it has been awake and watched; 0: it is not watched */
    uint64_t awake_cpu_ns;     /* on the thread's CPU clock, then */
    uint64_t crowded_until_ns;
    uint32_t quick;            /* short frames after short waits */
} Spin;

static inline void spin_init(Spin *spin)
{
    spin->awake_ns = spin->awake_cpu_ns = spin->crowded_until_ns = 0;
    spin->quick = 0;
}

/* There is work again, after so long: a frame of `len` bytes.  What comes within SPIN_SHORT_NS needs
 * nothing of this and says nothing. */
static inline void spin_worked(Spin *spin, uint64_t waited_ns, uint32_t len)
{
    if (waited_ns <= SPIN_SHORT_NS)
        return;
    if (len > SPIN_FRAME_LEN)
        spin->quick = 0;
    else if (waited_ns > SPIN_LONG_NS)
        spin->quick /= 2;
    else if (spin->quick < SPIN_QUICK_MOST)
        spin->quick++;
}

static inline int spin_is_long(const Spin *spin, uint64_t now_ns)
{
    return spin->quick >= SPIN_QUICK && now_ns >= spin->crowded_until_ns;
}

/* For how long after the last work it is to spin. */
static inline uint64_t spin_for(const Spin *spin, uint64_t now_ns)
{
    return spin_is_long(spin, now_ns) ? SPIN_LONG_NS : SPIN_SHORT_NS;
}

/* While it spins.  Returns whether spin_clock has to be told the time: reading the clock of a thread
 * is a system call. */
static inline int spin_watch(const Spin *spin, uint64_t now_ns)
{
    return spin_is_long(spin, now_ns)
           && (!spin->awake_ns || now_ns - spin->awake_ns >= SPIN_WATCHED_NS);
}

/* `cpu_ns`: the thread's CPU time, now. */
static inline void spin_clock(Spin *spin, uint64_t now_ns, uint64_t cpu_ns)
{
    if (spin->awake_ns && 2 * (cpu_ns - spin->awake_cpu_ns) < now_ns - spin->awake_ns)
        spin->crowded_until_ns = now_ns + SPIN_CROWDED_NS;
    spin->awake_ns = now_ns;
    spin->awake_cpu_ns = cpu_ns;
}

/* Before a sleep: CPU time that it does not want has not been taken from it. */
static inline void spin_end(Spin *spin)
{
    spin->awake_ns = 0;
}

#endif
