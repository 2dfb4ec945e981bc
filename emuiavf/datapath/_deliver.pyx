"""Delivery: a burst to the one other end of a connection, or its frames to members of a switch."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from emuiavf._atomic cimport load_acquire_ptr, load_relaxed_u64
from emuiavf._bits cimport count_bits, low_bits, lowest_bit, lowest_bit64
from emuiavf.datapath._frame cimport (
    FRAME_DROP, PUT_DROP, TX_DISCARDS, TX_FILTERED, TX_HELD, TX_STORM, Burst, RxFilterTable, Source,
)
from emuiavf.datapath._switch cimport (
    SWITCH_MEMBERS, filter_accepts, filter_accepts_all, filter_by_address, filter_strips,
    put_untagged, switch_route, switch_treats_alike,
)


cdef extern from *:
    bint likely(bint condition) noexcept nogil


# So long the next room of a member is kept for who waits for it; a worker that serves the others
# may look at its clock later than the one that waits.
cdef int64_t KEPT_NS = 1_000_000
cdef uint64_t SECOND_NS = 1_000_000_000


cdef inline uint32_t _accepted(const RxFilterTable *table, const Burst *burst, int count,
                               uint32_t *filtered) noexcept nogil:
    """The frames that the table lets pass, and those that it does not: none of them dropped."""
    cdef uint32_t mask = 0
    cdef int i
    if likely(burst.alike and filter_by_address(table)):
        if table == NULL or filter_accepts(table, &burst.frames[0]):
            return low_bits(count)
        filtered[0] = low_bits(count)
        return 0
    if filter_accepts_all(table, burst.frames, count):
        return low_bits(count)
    for i in range(count):
        if not burst.frames[i].flags & FRAME_DROP:
            if table == NULL or filter_accepts(table, &burst.frames[i]):
                mask |= <uint32_t>1 << i
            else:
                filtered[0] |= <uint32_t>1 << i
    return mask


cdef int deliver_one(Route *route, Burst *burst, int count, uint64_t hold_ns) noexcept nogil:
    """1:1: put in order, hold at the first frame without room; returns how many are finished."""
    cdef Source *source = route.source
    cdef uint32_t filtered = 0, left, how = 0, cursor = burst.frames[0].cursor
    cdef int finished = count
    cdef const RxFilterTable *table = <const RxFilterTable *>load_acquire_ptr(
        <void **>&route.one.filter)
    cdef uint32_t mask = _accepted(table, burst, count, &filtered)
    if mask:
        if source.held_since != 0 and burst.now_ns - source.held_since > hold_ns:
            how = PUT_DROP
        if table != NULL and filter_strips(table):
            left = mask & ~put_untagged(route.one, burst, mask, how)
        else:
            left = mask & ~route.one.put(route.one, burst, mask, how)
        if left:
            finished = lowest_bit(left)
    if filtered:
        # Those behind a held frame come again.
        source.row[TX_FILTERED] += count_bits(filtered & low_bits(finished))
    if finished == count:
        source.held_since = 0
        return count
    source.row[TX_HELD] += 1
    if finished > 0 or source.held_since == 0 or burst.frames[0].cursor != cursor:
        source.held_since = burst.now_ns
    return finished


cdef uint64_t _not_kept(Route *route, const uint32_t *masks, uint64_t touched,
                        uint64_t now) noexcept nogil:
    """The members of `touched` whose next room is not kept for somebody who was promised it; what
    is for the others is dropped."""
    cdef uint64_t left = touched, since
    cdef int member
    while left:
        member = lowest_bit64(left)
        left &= left - 1
        since = load_relaxed_u64(&route.many.sinks[member].full_since)
        # Who has waited for as long as frames are held waits no more.  Signed: another worker's
        # turn may be younger than ours.
        if since and <int64_t>(now - since) <= KEPT_NS:
            touched &= ~(<uint64_t>1 << member)
            route.source.row[TX_DISCARDS] += count_bits(masks[member])
    return touched


cdef uint64_t _route_each(Route *route, Burst *burst, int count, uint32_t now_s,
                          uint32_t *masks) noexcept nogil:
    """The members that frames go to, and in `masks` which ones go to each of them."""
    cdef uint64_t touched = 0, to
    cdef uint64_t storm_ns = route.many.storm_ns
    cdef uint32_t bit, flood = 0
    cdef int i, member
    for i in range(count):
        if burst.frames[i].flags & FRAME_DROP:
            continue
        to = switch_route(route.many, &burst.frames[i], route.source.member, now_s, &flood)
        if to == 0:
            route.source.row[TX_FILTERED] += 1
        elif flood and storm_ns and to & (to - 1) and not may_flood(
                route.source, storm_ns * pieces(&burst.frames[i]), burst.now_ns):
            route.source.row[TX_STORM] += 1
            route.source.row[TX_DISCARDS] += 1
            continue
        bit = <uint32_t>1 << i
        while to:
            member = lowest_bit64(to)
            to &= to - 1
            if not touched >> member & 1:
                touched |= <uint64_t>1 << member
                masks[member] = 0
            masks[member] |= bit
    return touched


cdef void deliver_many(Route *route, Burst *burst, int count) noexcept nogil:
    """Switch: one mask of frames per destination touched; nothing is held."""
    cdef uint32_t masks[SWITCH_MEMBERS]
    cdef uint64_t touched = 0
    cdef uint32_t served = 0, cursor = burst.frames[0].cursor, flood = 0, now_s = 0
    cdef int member
    if route.many.fdb != NULL:
        now_s = <uint32_t>(burst.now_ns // SECOND_NS)
    if burst.alike and switch_treats_alike(route.many, route.source.member):
        touched = switch_route(route.many, &burst.frames[0], route.source.member, now_s, &flood)
    # One destination, and a burst that no limit of floods has to be asked about.
    if likely(touched and touched & (touched - 1) == 0):
        masks[lowest_bit64(touched)] = low_bits(count)
    else:
        touched = _route_each(route, burst, count, now_s, masks)
    if route.many.promises:
        touched = _not_kept(route, masks, touched, burst.now_ns)
    while touched:
        member = lowest_bit64(touched)
        touched &= touched - 1
        if served & masks[member]:
            again(burst, served & masks[member], cursor)
        served |= masks[member]
        if route.many.strips >> member & 1:
            put_untagged(route.many.sinks[member], burst, masks[member], PUT_DROP)
        else:
            route.many.sinks[member].put(route.many.sinks[member], burst, masks[member], PUT_DROP)
