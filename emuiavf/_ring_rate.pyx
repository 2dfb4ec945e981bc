"""The rate limit of a VF: a token bucket that holds frames in their Tx rings.

The bucket is kept as a time: up to `paid_ns` the limit is used up.  What is sent moves it on, so
that a frame that is larger than what was left is paid for afterwards, and the rate is met to the
bit whatever the bursts are.  All rings of a VF share it, whichever workers serve them.  What counts
are the bytes of the frames without FCS, after segmentation: those of the counter tx_bytes.

A VF without a limit has other functions in its Sources and pays nothing.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from emuiavf._atomic cimport (
    add_relaxed_from_u64, load_acquire_u32, load_relaxed_u32, load_relaxed_u64, store_relaxed_u32,
)
from emuiavf._ring_state cimport TxRun, VfRun
from emuiavf._ring_tx cimport tx_done, tx_take
from emuiavf.datapath._frame cimport BURST_BYTES, TAKE_LATER, TX_BYTES, Burst, Source


# What was not used in this time may still be: a worker that sleeps too long, or has lost its CPU,
# catches up.  More would be a burst of its own (2 % of a second).
cdef uint64_t DEPTH_NS = 20_000_000
# So much is saved up before frames are taken: bursts instead of single frames where rates are high.
cdef uint64_t QUANTUM_NS = 50_000
# So long the ring whose turn it is may take to use it: its worker may be another, and asleep.
cdef uint64_t PATIENCE_NS = 2_000_000
# Megabits per second are bits per 1000 ns.
cdef uint64_t BITS = 8 * 1000


cdef inline bint tx_waits(const TxRun *tx) noexcept nogil:
    """Whether a ring has frames to send, as far as can be seen by the worker of another."""
    return (load_acquire_u32(&tx.enabled) and not load_relaxed_u32(&tx.fault)
            and load_acquire_u32(tx.tail) != load_relaxed_u32(&tx.state.head))


cdef bint tx_is_first(TxRun *tx) noexcept nogil:
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
        if tx_waits(&vf.tx[at]):
            return False
        at += 1
    return True


cdef int tx_take_limited(Source *source, Burst *burst) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef uint64_t rate = load_relaxed_u32(&tx.vf.max_rate), paid, saved, bytes
    cdef int count
    if load_acquire_u32(tx.tail) != tx.state.head and rate:
        paid = load_relaxed_u64(&tx.vf.paid_ns)
        if <int64_t>(burst.now_ns - paid) < <int64_t>QUANTUM_NS:
            source.due_ns = paid + QUANTUM_NS
            return TAKE_LATER
        saved = burst.now_ns - paid
        if saved < PATIENCE_NS and not tx_is_first(tx):
            source.due_ns = burst.now_ns
            return TAKE_LATER
        if saved > DEPTH_NS:
            saved = DEPTH_NS
        bytes = saved * rate // BITS
        # At least one frame: there is something left, and what it lacks is owed.
        tx.budget = <uint32_t>bytes if 0 < bytes < BURST_BYTES else 1 if bytes == 0 else BURST_BYTES
    count = tx_take(source, burst)
    tx.budget = BURST_BYTES
    return count


cdef void tx_done_limited(Source *source, Burst *burst, int count) noexcept nogil:
    cdef TxRun *tx = <TxRun *>source
    cdef uint64_t rate = load_relaxed_u32(&tx.vf.max_rate), before = source.row[TX_BYTES], ns
    cdef uint64_t floor = burst.now_ns - DEPTH_NS if burst.now_ns > DEPTH_NS else 0
    tx_done(source, burst, count)
    if rate == 0:
        return
    tx.owed += (source.row[TX_BYTES] - before) * BITS
    ns = tx.owed // rate
    tx.owed -= ns * rate
    add_relaxed_from_u64(&tx.vf.paid_ns, floor, ns)
