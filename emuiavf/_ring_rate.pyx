"""Rate limits: token buckets that hold frames in their Tx rings.

A VF has one, over all its rings, which is the host's, and each ring has one, which is the guest's.
A bucket is kept as a time: up to `paid_ns` the limit is used up.  What is sent moves it on, so
that a frame that is larger than what was left is paid for afterwards, and the rate is met to the
bit whatever the bursts are.  All rings of a VF share its bucket, whichever workers serve them.
What counts are the bytes of the frames without FCS, after segmentation: those of the counter
tx_bytes.

A ring without any limit and of a usual turn has other functions in its Source and pays nothing.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from emuiavf._atomic cimport (
    add_relaxed_from_u64, load_acquire_u32, load_relaxed_u32, load_relaxed_u64, store_relaxed_u32,
    store_relaxed_u64, store_release_u32,
)
from emuiavf._ring_state cimport Bucket, TxRun, VfRun
from emuiavf._ring_tx cimport tx_done, tx_take
from emuiavf.datapath._frame cimport BURST_BYTES, TAKE_LATER, TX_BYTES, Burst, Source


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept


# What was not used in this time may still be: a worker that sleeps too long, or has lost its CPU,
# catches up.  More would be a burst of its own (2 % of a second).
cdef uint64_t DEPTH_NS = 20_000_000
# So much is saved up before frames are taken: bursts instead of single frames where rates are high.
cdef uint64_t QUANTUM_NS = 50_000
# So long the ring whose turn it is may take to use it: its worker may be another, and asleep.
cdef uint64_t PATIENCE_NS = 2_000_000
# Kilobits per second are bits per 1,000,000 ns.
cdef uint64_t BITS = 8 * 1_000_000


cdef inline uint64_t bucket_saved(const Bucket *bucket, uint64_t now) noexcept nogil:
    """For how long its rate was not used; 0 while that is too little to send for."""
    cdef uint64_t paid = load_relaxed_u64(&bucket.paid_ns)
    return now - paid if <int64_t>(now - paid) >= <int64_t>QUANTUM_NS else 0


cdef inline uint64_t bucket_due(const Bucket *bucket) noexcept nogil:
    return load_relaxed_u64(&bucket.paid_ns) + QUANTUM_NS


cdef inline uint32_t bytes_saved(uint32_t rate, uint64_t saved, uint32_t most) noexcept nogil:
    """What may be sent of it now, at least one frame: what it lacks is owed."""
    cdef uint64_t bytes = (saved if saved < DEPTH_NS else DEPTH_NS) * rate // BITS
    return most if bytes > most else <uint32_t>bytes if bytes else 1


cdef inline void bucket_pay(Bucket *bucket, uint64_t *owed, uint64_t bytes,
                            uint64_t now) noexcept nogil:
    cdef uint64_t rate = load_relaxed_u32(&bucket.rate), ns
    if rate == 0:
        return
    owed[0] += bytes * BITS
    ns = owed[0] // rate
    owed[0] -= ns * rate
    add_relaxed_from_u64(&bucket.paid_ns, now - DEPTH_NS if now > DEPTH_NS else 0, ns)


cdef inline bint tx_waits(const TxRun *tx, uint64_t now) noexcept nogil:
    """Whether a ring has frames that it may send, as far as the worker of another can see."""
    return (load_acquire_u32(&tx.enabled) and not load_relaxed_u32(&tx.fault)
            and load_acquire_u32(tx.tail) != load_relaxed_u32(&tx.state.head)
            and (not load_relaxed_u32(&tx.limit.rate) or bucket_saved(&tx.limit, now)))


cdef bint tx_is_first(TxRun *tx, uint64_t now) noexcept nogil:
    """Whether it is this ring's turn among those of its VF that have frames to send.

    Else the one that is looked at first would have all of a low rate, and the Tx watchdog of the
    others' driver would fire.
    """
    cdef VfRun *vf = tx.vf
    cdef uint32_t count = vf.num_rx, at = load_relaxed_u32(&vf.tx_turn), _ring
    for _ring in range(count):
        if at >= count:
            at = 0
        if &vf.tx[at] == tx:
            store_relaxed_u32(&vf.tx_turn, at + 1)
            return True
        if tx_waits(&vf.tx[at], now):
            return False
        at += 1
    return True


cdef int tx_take_limited(Source *source, Burst *burst) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef uint32_t own = load_relaxed_u32(&tx.limit.rate), rate = load_relaxed_u32(&tx.vf.limit.rate)
    cdef uint32_t budget = load_relaxed_u32(&tx.quantum)
    cdef uint64_t saved, now = burst.now_ns
    cdef int count
    if load_acquire_u32(tx.tail) != tx.state.head:
        # The ring's own first: one that has to wait anyway must not use its turn.
        if own:
            saved = bucket_saved(&tx.limit, now)
            if saved == 0:
                source.due_ns = bucket_due(&tx.limit)
                return TAKE_LATER
            budget = bytes_saved(own, saved, budget)
        if rate:
            saved = bucket_saved(&tx.vf.limit, now)
            if saved == 0:
                source.due_ns = bucket_due(&tx.vf.limit)
                return TAKE_LATER
            if saved < PATIENCE_NS and not tx_is_first(tx, now):
                source.due_ns = now
                return TAKE_LATER
            budget = bytes_saved(rate, saved, budget)
    tx.budget = budget
    count = tx_take(source, burst)
    tx.budget = BURST_BYTES
    return count


cdef void tx_done_limited(Source *source, Burst *burst, int count) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef uint64_t before = source.row[TX_BYTES], bytes
    tx_done(source, burst, count)
    bytes = source.row[TX_BYTES] - before
    bucket_pay(&tx.limit, &tx.own_owed, bytes, burst.now_ns)
    bucket_pay(&tx.vf.limit, &tx.owed, bytes, burst.now_ns)


cdef void bucket_set(Bucket *bucket, uint32_t rate) noexcept:
    """The new rate begins with nothing used; what is the same goes on."""
    if rate != bucket.rate:
        store_relaxed_u64(&bucket.paid_ns, monotonic_ns())
        store_release_u32(&bucket.rate, rate)


cdef void choose(VfRun *vf, TxRun *tx) noexcept:
    """The functions that fit what a ring is held to."""
    cdef bint limited = vf.limit.rate or tx.limit.rate or tx.quantum != BURST_BYTES
    tx.source.take = tx_take_limited if limited else tx_take
    tx.source.done = tx_done_limited if limited else tx_done


cdef void limit_vf(VfRun *vf, uint32_t rate) noexcept:
    cdef uint32_t i
    bucket_set(&vf.limit, rate)
    for i in range(vf.num_rx):
        choose(vf, &vf.tx[i])


cdef void limit_ring(VfRun *vf, uint32_t index, uint32_t rate, uint32_t quantum) noexcept:
    cdef TxRun *tx = &vf.tx[index]
    bucket_set(&tx.limit, rate)
    store_relaxed_u32(&tx.quantum, quantum)
    choose(vf, tx)
