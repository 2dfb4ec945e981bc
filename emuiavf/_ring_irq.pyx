"""Interrupt moderation: events of the data path meet the guest's arming of its vectors."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from emuiavf._atomic cimport (
    add_relaxed_u64, exchange_u32, load_relaxed_u32, load_seq_u32, or_u32, store_release_u32,
    store_seq_u32, swap_if_u32, take_one,
)
from emuiavf._eventfd cimport event_signal_foreign
from emuiavf.datapath._frame cimport FOREVER, RX_INTERRUPTS, Poller
from emuiavf._ring_state cimport (
    DYN_INTENA, DYN_INTERVAL_SHIFT, DYN_ITR_MASK, DYN_ITR_NONE, DYN_ITR_SHIFT, DYN_SWINT_TRIG,
    EVENT_NOW, EVENT_RX, EVENT_TX, Vector, VfPoller, VfRun,
)
from emuiavf._ring_watch cimport watch_look


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept
    void event_signal(int fd) noexcept


cdef void vector_fire(VfRun *vf, Vector *vector, uint64_t now, uint64_t *due) noexcept nogil:
    """Announce the vector's events if the guest has armed it and its interval has passed.

    Arming and events meet here: whoever finds both true clears INTENA by compare-and-swap (a plain
    store could eat a re-arm) and fires.  `due` is lowered to when an interval ends.
    """
    cdef uint32_t word, events, index, interval = 0, wait
    cdef int _try
    events = load_seq_u32(&vector.events)
    if events == 0 or not load_relaxed_u32(&vf.bus_master):
        return
    if vector.fd < 0:
        # A vector without an eventfd drops its events.
        exchange_u32(&vector.events, 0)
        return
    for _try in range(8):
        word = load_seq_u32(vector.ctl)
        if not word & DYN_INTENA:
            return
        index = (word & DYN_ITR_MASK) >> DYN_ITR_SHIFT
        if index != 3:
            store_release_u32(vector.itr[index], (word >> DYN_INTERVAL_SHIFT) & 0xFFF)
        if not events & EVENT_NOW:
            # Both directions pending: the shorter interval counts.
            wait = 0xFFFFFFFF
            if events & EVENT_RX:
                wait = 0 if vector.rx_itr > 2 else load_relaxed_u32(vector.itr[vector.rx_itr])
            if events & EVENT_TX:
                interval = 0 if vector.tx_itr > 2 else load_relaxed_u32(vector.itr[vector.tx_itr])
                if interval < wait:
                    wait = interval
            wait = (wait & 0xFFF) * 2000
            # Signed: another worker's turn, and its interrupt, may be younger than ours.
            if <int64_t>(now - vector.last_ns) < <int64_t>wait:
                if vector.last_ns + wait < due[0]:
                    due[0] = vector.last_ns + wait
                return
        events = exchange_u32(&vector.events, 0)
        if events == 0:
            return
        if swap_if_u32(vector.ctl, word,
                       (word & ~<uint32_t>(DYN_INTENA | DYN_SWINT_TRIG)) | DYN_ITR_NONE):
            vector.last_ns = now
            if load_relaxed_u32(&vf.lose_irqs) and take_one(&vf.lose_irqs):
                store_seq_u32(&vector.lost, 1)
                return
            event_signal_foreign(vector.fd)
            add_relaxed_u64(vector.row + RX_INTERRUPTS, 1)
            return
        or_u32(&vector.events, events)


cdef void vector_event(VfRun *vf, Vector *vector, uint32_t event, uint64_t now) noexcept nogil:
    """Something happened that `vector` announces; what cannot be announced now stays waiting."""
    cdef uint64_t due = FOREVER
    cdef uint32_t before
    # vector_fire would drop it, at the cost of two atomics.
    if (vector.fd < 0 and load_relaxed_u32(&vf.bus_master)
            and not load_relaxed_u32(&vector.events)):
        return
    before = or_u32(&vector.events, event)
    vector_fire(vf, vector, now, &due)
    if load_relaxed_u32(&vector.events):
        store_seq_u32(&vf.waiting, 1)
        # Of what waited before, the polling worker knows: a guest that polls with its vectors off
        # must not cost a system call per burst.
        if not before & event:
            vf_wake(vf)


cdef void vector_use(VfRun *vf, uint32_t number) noexcept nogil:
    """From now on a worker looks at the vector when something waits.  Anyone may call it."""
    cdef uint32_t used = load_relaxed_u32(&vf.used_vectors)
    while used <= number and not swap_if_u32(&vf.used_vectors, used, number + 1):
        used = load_relaxed_u32(&vf.used_vectors)


cdef void vf_wake(VfRun *vf) noexcept nogil:
    """Let the worker that polls this VF look at its vectors; it may be another one, and asleep."""
    store_seq_u32(&vf.waiting, 1)
    if vf.poller.napping != NULL and load_seq_u32(vf.poller.napping):
        event_signal(vf.poller.wake_fd)


cdef uint64_t vf_poll(Poller *poller, uint64_t now) noexcept nogil:
    cdef VfRun *vf = (<VfPoller *>poller).vf
    cdef uint64_t due = FOREVER
    cdef uint32_t v, word
    cdef Vector *vector
    if now >= vf.next_sweep_ns:
        vf.next_sweep_ns = now + vf.sweep_ns
        if vf.watch != NULL:
            watch_look(vf.watch)
        for v in range(vf.num_vectors):
            vector = &vf.vectors[v]
            word = load_relaxed_u32(vector.ctl)
            if word & DYN_SWINT_TRIG and vector.fd >= 0:
                vector_use(vf, v)
                or_u32(&vector.events, EVENT_NOW)
                store_seq_u32(&vf.waiting, 1)
    if not load_relaxed_u32(&vf.waiting):
        return FOREVER
    # Cleared before looking: an event that comes meanwhile sets it again.
    store_seq_u32(&vf.waiting, 0)
    for v in range(load_relaxed_u32(&vf.used_vectors)):
        vector = &vf.vectors[v]
        if load_relaxed_u32(&vector.events):
            vector_fire(vf, vector, now, &due)
            if load_relaxed_u32(&vector.events):
                store_seq_u32(&vf.waiting, 1)
    return due
