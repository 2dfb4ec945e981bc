"""The Rx rings of a VF as one sink: rules, RSS over several rings, and who is told."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memmove

from emuiavf._atomic cimport (
    load_acquire_ptr, load_relaxed_ptr, load_relaxed_u32, spin_lock, spin_unlock,
)
from emuiavf._bits cimport count_bits, lowest_bit
from emuiavf._ring_irq cimport vector_event
from emuiavf._ring_plain cimport rx_expect
from emuiavf._ring_rx cimport rx_put, rx_refuse, rx_room, rx_wants
from emuiavf._ring_state cimport EVENT_RX, LUT_SIZE, RxRun, RxSet, Vector, VfRun
from emuiavf.datapath._flow cimport burst_count, burst_hash, burst_steer
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, FRAME_HASHED, FRAME_QUEUE_SHIFT, FRAME_STEERED, PUT_DROP, RX_QUEUE_OFF,
    RX_RULE_DROPS, Burst, Frame, FrameSink,
)
from emuiavf.datapath._offload cimport burst_judge


cdef extern from *:
    bint unlikely(bint condition) noexcept nogil


cdef inline void rx_announce(VfRun *vf, RxRun *rx, uint64_t now) noexcept nogil:
    cdef Vector *vector = <Vector *>load_relaxed_ptr(<void **>&rx.vector)
    if vector != NULL:
        vector_event(vf, vector, EVENT_RX, now)


cdef inline uint32_t rx_queue_of(const VfRun *vf, const RxSet *rx_set,
                                 const Frame *frame) noexcept nogil:
    """The enabled queue a frame belongs to, or num_rx when there is none."""
    cdef uint32_t queue = 0
    if frame.flags & (FRAME_HASHED | FRAME_STEERED):
        queue = rx_set.lut[frame.hash & (LUT_SIZE - 1)]
        if unlikely(frame.flags & FRAME_STEERED):
            queue = frame.flags >> FRAME_QUEUE_SHIFT
        if queue >= vf.num_rx or not rx_set.enabled[queue >> 6] >> (queue & 63) & 1:
            queue = 0
    if not rx_set.enabled[0] & 1 and queue == 0:
        return vf.num_rx
    return queue


cdef inline void vf_discard(VfRun *vf, Burst *burst, uint32_t mask, int reason) noexcept nogil:
    """Nobody gets the frames: they count on queue 0."""
    rx_refuse(&vf.rx[0], burst, mask, reason)


cdef uint32_t vf_put_spread(VfRun *vf, const RxSet *rx_set, Burst *burst, uint32_t mask,
                            uint64_t kind, uint32_t how) noexcept nogil:
    """RSS: a second mask per queue.  All rings touched are locked, in ascending order, so that a
    held burst stops at one frame for all of them."""
    cdef uint32_t queues[BURST_FRAMES]     # distinct, ascending
    cdef uint32_t masks[BURST_FRAMES]
    cdef uint32_t used[BURST_FRAMES]
    cdef uint32_t home[BURST_FRAMES]       # frame -> position in `queues`
    cdef uint32_t num = 0, left = mask, accepted = 0, queue, i, j, limit = 0xFFFFFFFF
    cdef uint32_t nowhere = 0
    cdef Frame *frame
    cdef RxRun *rx
    cdef bint moved
    while left:
        i = <uint32_t>lowest_bit(left)
        left &= left - 1
        queue = rx_queue_of(vf, rx_set, &burst.frames[i])
        if queue == vf.num_rx:
            nowhere |= <uint32_t>1 << i
            continue
        j = num
        while j > 0 and queues[j - 1] >= queue:
            j -= 1
        if j == num or queues[j] != queue:
            memmove(&queues[j + 1], &queues[j], (num - j) * sizeof(uint32_t))
            memmove(&masks[j + 1], &masks[j], (num - j) * sizeof(uint32_t))
            queues[j] = queue
            masks[j] = 0
            num += 1
        masks[j] |= <uint32_t>1 << i
    mask &= ~nowhere
    for j in range(num):
        spin_lock(&vf.rx[queues[j]].lock)
    if not how & PUT_DROP:
        for j in range(num):
            used[j] = 0
            left = masks[j]
            while left:
                home[lowest_bit(left)] = j
                left &= left - 1
        left = mask
        while left:
            i = <uint32_t>lowest_bit(left)
            left &= left - 1
            frame = &burst.frames[i]
            rx = &vf.rx[queues[home[i]]]
            used[home[i]] += rx_wants(rx, rx_set, frame)
            if used[home[i]] > rx_room(rx, used[home[i]]) and not rx.fault:
                # This one may be delivered in part, nothing behind it.
                limit = <uint32_t>(((<uint64_t>2) << i) - 1)
                break
    for j in range(num):
        rx = &vf.rx[queues[j]]
        moved = False
        accepted |= rx_put(vf, rx, rx_set, burst, masks[j] & limit, kind, how, &moved)
        spin_unlock(&rx.lock)
        if moved:
            rx_announce(vf, rx, burst.now_ns)
    # What stands behind a held frame comes again, and is counted then.
    nowhere &= limit
    if unlikely(nowhere):
        vf_discard(vf, burst, nowhere, RX_QUEUE_OFF)
    return accepted | nowhere


cdef inline uint32_t vf_put_judged(VfRun *vf, const RxSet *rx_set, Burst *burst, uint32_t mask,
                                   uint64_t kind, uint32_t how) noexcept nogil:
    """Deliver frames that everything is known of; `kind` as of burst_judge."""
    cdef uint32_t accepted
    cdef RxRun *rx
    cdef bint moved = False
    if rx_set.any > 1 or not rx_set.enabled[0] & 1:
        return vf_put_spread(vf, rx_set, burst, mask, kind, how)
    rx = &vf.rx[0]
    spin_lock(&rx.lock)
    accepted = rx_put(vf, rx, rx_set, burst, mask, kind, how, &moved)
    spin_unlock(&rx.lock)
    if moved:
        rx_announce(vf, rx, burst.now_ns)
    return accepted


cdef uint32_t vf_put_ruled(VfRun *vf, const RxSet *rx_set, Burst *burst, uint32_t mask,
                           uint32_t how) noexcept nogil:
    """Deliver frames after the rules have had their say.

    What stands behind a held frame comes again, so it is counted then.
    """
    cdef uint16_t numbers[BURST_FRAMES]
    cdef uint32_t dropped = burst_steer(burst, mask, rx_set.rules, numbers)
    cdef uint32_t rest = mask & ~dropped, held = 0, finished = mask
    if rest:
        held = rest & ~vf_put_judged(vf, rx_set, burst, rest, 0, how)
    if held:
        finished &= (held & (~held + 1)) - 1
        dropped &= finished
    burst_count(rx_set.rules, finished, numbers, vf.hits)
    if dropped:
        vf_discard(vf, burst, dropped, RX_RULE_DROPS)
    return mask & ~held


cdef uint32_t vf_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil:
    cdef VfRun *vf = <VfRun *>sink
    cdef const RxSet *rx_set = <const RxSet *>load_acquire_ptr(<void **>&vf.rx_set)
    cdef uint64_t kind = 0
    if not rx_set.any or not load_relaxed_u32(&vf.bus_master):
        vf_discard(vf, burst, mask, RX_QUEUE_OFF)
        return mask
    if rx_set.any == 1:
        rx_expect(&vf.rx[0], <uint32_t>count_bits(mask))
    if rx_set.hena or vf.judge or rx_set.strip or rx_set.chosen or rx_set.extracts:
        kind = burst_judge(burst, mask, rx_set.key, rx_set.hena, vf.judge)
        if rx_set.chosen:
            kind = 0
            if rx_set.hashing != NULL:
                burst_hash(burst, mask, rx_set.hashing)
            if rx_set.rules != NULL:
                return vf_put_ruled(vf, rx_set, burst, mask, how)
    return vf_put_judged(vf, rx_set, burst, mask, kind, how)
