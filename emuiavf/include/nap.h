/* How long an idle worker sleeps from one look at its devices to the next.
 *
 * A doorbell in memory tells nobody, so somebody has to look.  What a look costs (falling asleep, the
 * timer, waking up, a turn) is a matter of the machine: from 2 us to 20 us of CPU, the most on a
 * virtual one, and 60 us were seen beside a QEMU on the same two cores.  So the share of a core that
 * looks may take is fixed and the time between them is not: it follows from what looks have cost this
 * worker's thread.  No clock is read in here.
 */
#ifndef EMUIAVF_NAP_H
#define EMUIAVF_NAP_H

#include <stdint.h>

/* Of a core, in millionths, for each device that is looked after: 2 % with room for what control
 * does meanwhile. */
#define NAP_DEVICE_PPM 17500u
/* Sleeps grow with the time that has been idle: an answer to a ping waits little.  For each time that
 * this grows by a factor of e, looks take so much CPU, whatever one costs: a guest that does nothing
 * still sends a frame now and then. */
#define NAP_GROWTH_NS 2500000u
/* From the shortest on, for shorter ones make smaller bursts and take the CPU from the guest more
 * often: with 5 us, where guest and worker share two cores, iperf3 to the host was a fifth slower than
 * with 100 us, and ping no quicker (tests/vm/test_speed.py). */
#define NAP_SHORTEST_NS 100000u
#define NAP_LONGEST_NS 4000000u
/* So many looks are measured together: reading the clock of a thread is a system call. */
#define NAP_LOOKS 16u
/* What a look is taken to cost before any was measured. */
#define NAP_LOOK_NS 10000u

typedef struct Nap {
    uint64_t look_ns;   /* CPU time of a look, smoothed */
    uint64_t began_ns;  /* on the thread's CPU clock, when the looks being measured began */
    uint32_t looks;     /* how many of them there have been */
    uint32_t measured;  /* 0: none are being measured */
} Nap;

static inline void nap_init(Nap *nap)
{
    nap->look_ns = NAP_LOOK_NS;
    nap->began_ns = 0;
    nap->looks = 0;
    nap->measured = 0;
}

/* The sleep with which looks take `ppm` of a core. */
static inline uint64_t nap_longest(const Nap *nap, uint32_t ppm)
{
    uint64_t each = ppm ? nap->look_ns * 1000000u / ppm : UINT64_MAX;
    if (each >= NAP_LONGEST_NS + nap->look_ns)
        return NAP_LONGEST_NS;
    return each >= NAP_SHORTEST_NS + nap->look_ns ? each - nap->look_ns : NAP_SHORTEST_NS;
}

/* The next sleep of a worker that has had nothing to do for `idle_ns`. */
static inline uint64_t nap_next(const Nap *nap, uint64_t idle_ns, uint64_t longest)
{
    uint64_t sleep = idle_ns / (NAP_GROWTH_NS / nap->look_ns + 1);
    if (sleep > longest)
        return longest;
    return sleep > NAP_SHORTEST_NS ? sleep : NAP_SHORTEST_NS;
}

/* There was work, or a sleep that was cut short: what that cost says nothing about a look, and the
 * looks being measured are forgotten. */
static inline void nap_break(Nap *nap)
{
    nap->measured = 0;
}

/* Before a sleep of nap_longest.  Returns whether nap_clock has to be told the time. */
static inline int nap_look(Nap *nap)
{
    if (!nap->measured)
        return 1;
    nap->looks++;
    return nap->looks >= NAP_LOOKS;
}

/* `cpu_ns`: the thread's CPU time, now, between a turn and a sleep. */
static inline void nap_clock(Nap *nap, uint64_t cpu_ns)
{
    uint64_t look, known = nap->look_ns;
    if (nap->measured) {
        look = (cpu_ns - nap->began_ns) / NAP_LOOKS;
        /* One of them may have met something that happens once. */
        if (look > 2 * known)
            look = 2 * known;
        /* Rounded up, else it could come to 0 and stay there. */
        nap->look_ns = (3 * known + look + 3) / 4;
    }
    nap->began_ns = cpu_ns;
    nap->looks = 0;
    nap->measured = 1;
}

#endif
