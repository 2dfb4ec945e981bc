"""Rate limits: token buckets that hold frames in their Tx rings.

A VF has one, over all its rings, which is the host's, and each ring has one, which is the guest's.
All rings of a VF share its bucket, whichever workers serve them.  What counts are the bytes of the
frames without FCS, after segmentation: those of the counter tx_bytes.

A ring without any limit and of a usual turn has other functions in its Source and pays nothing.
"""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf._atomic cimport (
    load_acquire_u32, load_relaxed_u32, store_relaxed_u32, store_relaxed_u64, store_release_u32,
)
from emuiavf._ring_state cimport TxRun, VfRun
from emuiavf._ring_tx cimport tx_done, tx_posted, tx_take
from emuiavf.datapath._bucket cimport (
    BUCKET_BITS, BUCKET_DEPTH_NS, Bucket, bucket_due, bucket_pay, bucket_saved,
)
from emuiavf.datapath._frame cimport BURST_BYTES, TAKE_LATER, TX_BYTES, Burst, Source


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept


# So long the ring whose turn it is may take to use it: its worker may be another, and asleep.
cdef uint64_t PATIENCE_NS = 2_000_000


cdef inline uint32_t bytes_saved(uint32_t rate, uint64_t saved, uint32_t most) noexcept nogil:
    """What may be sent of it now, at least one frame: what it lacks is owed."""
    cdef uint64_t bytes = min(saved, BUCKET_DEPTH_NS) * rate // BUCKET_BITS
    return most if bytes > most else <uint32_t>bytes if bytes else 1


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
    # One look: what a take finds that this one has not seen would go without any limit.
    if tx_posted(tx) == 0:
        return 0
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


cdef void promise_vf(VfRun *vf, uint32_t rate) noexcept:
    bucket_set(&vf.promise, rate)


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
