/* A token bucket, kept as a time: up to `paid_ns` its rate is used up.
 *
 * What is sent moves it on, so that a frame that is larger than what was left is paid for afterwards,
 * and the rate is met whatever the bursts are.  Several workers may pay into one.
 */
#ifndef EMUIAVF_BUCKET_H
#define EMUIAVF_BUCKET_H

#include "atomics.h"

typedef struct Bucket {
    uint32_t rate;     /* Kb/s; 0: there is none */
    uint64_t paid_ns;  /* CLOCK_MONOTONIC, atomic */
} Bucket;

/* What was not used in this time may still be: a worker that sleeps too long, or has lost its CPU,
 * catches up.  More would be a burst of its own (2 % of a second). */
#define BUCKET_DEPTH_NS 20000000u
/* So much is saved up before frames are taken: bursts instead of single frames where rates are high. */
#define BUCKET_QUANTUM_NS 50000u
/* Kilobits per second are bits per 1,000,000 ns. */
#define BUCKET_BITS (8 * (uint64_t)1000000)

/* For how long the rate was not used; 0 while that is too little to send for. */
static inline uint64_t bucket_saved(const Bucket *bucket, uint64_t now)
{
    int64_t saved = (int64_t)(now - load_relaxed_u64(&bucket->paid_ns));
    return saved >= BUCKET_QUANTUM_NS ? (uint64_t)saved : 0;
}

static inline uint64_t bucket_due(const Bucket *bucket)
{
    return load_relaxed_u64(&bucket->paid_ns) + BUCKET_QUANTUM_NS;
}

/* Pay for bytes sent.  `owed`: the payer's, what is less than a nanosecond of the rate. */
static inline void bucket_pay(Bucket *bucket, uint64_t *owed, uint64_t bytes, uint64_t now)
{
    uint64_t rate = load_relaxed_u32(&bucket->rate), ns;
    if (rate == 0)
        return;
    *owed += bytes * BUCKET_BITS;
    ns = *owed / rate;
    *owed -= ns * rate;
    add_relaxed_from_u64(&bucket->paid_ns, now > BUCKET_DEPTH_NS ? now - BUCKET_DEPTH_NS : 0, ns);
}

#endif
