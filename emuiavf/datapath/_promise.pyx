"""What a sender was promised (min-rate), through a switch: it waits for room, which is kept for it.

Apart from _deliver so that nothing of this is in the way of those who are promised nothing: a
function with a second caller in the same module is not inlined any more.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from emuiavf._atomic cimport load_relaxed_u64, store_relaxed_u64
from emuiavf._bits cimport lowest_bit, lowest_bit64
from emuiavf.datapath._deliver cimport Route, again, may_flood, pieces
from emuiavf.datapath._frame cimport (
    FRAME_DROP, PUT_DROP, TX_DISCARDS, TX_FILTERED, TX_HELD, TX_STORM, Burst, FrameSink,
)
from emuiavf.datapath._switch cimport Switch, put_untagged, switch_route


cdef uint64_t SECOND_NS = 1_000_000_000


cdef inline uint32_t _put(const Switch *table, int member, Burst *burst, uint32_t mask,
                          uint32_t how) noexcept nogil:
    cdef FrameSink *sink = table.sinks[member]
    if table.strips >> member & 1:
        return put_untagged(sink, burst, mask, how)
    return sink.put(sink, burst, mask, how)


cdef uint32_t _put_or_hold(const Switch *table, int member, Burst *burst, uint32_t mask,
                           uint64_t hold_ns) noexcept nogil:
    """Put frames to a member; returns those that have to wait for room."""
    cdef FrameSink *sink = table.sinks[member]
    cdef uint64_t since = load_relaxed_u64(&sink.full_since), now = burst.now_ns
    cdef uint32_t cursor, accepted, left
    cdef int first = lowest_bit(mask)
    cursor = burst.frames[first].cursor
    accepted = _put(table, member, burst, mask, 0)
    left = mask & ~accepted
    if left == 0:
        if since:
            store_relaxed_u64(&sink.full_since, 0)
        return 0
    if accepted or burst.frames[first].cursor != cursor or since == 0:
        since = now
        store_relaxed_u64(&sink.full_since, since)
    # Signed: another worker's turn may be younger than ours.
    if <int64_t>(now - since) <= <int64_t>hold_ns:
        return left
    # Nobody takes anything there: what goes elsewhere must not wait for it.
    _put(table, member, burst, left, PUT_DROP)
    return 0


cdef int deliver_promised(Route *route, Burst *burst, int count, uint64_t hold_ns) noexcept nogil:
    cdef const Switch *table = route.many
    cdef uint64_t to = 0, storm_ns = table.storm_ns
    cdef uint32_t flood = 0, now_s = 0, mask = 0, left, cursor = burst.frames[0].cursor
    cdef int i, member = -1, next_member
    if table.fdb != NULL:
        now_s = <uint32_t>(burst.now_ns // SECOND_NS)
    for i in range(count + 1):
        next_member = -1
        if i < count:
            if burst.frames[i].flags & FRAME_DROP:
                continue
            to = switch_route(table, &burst.frames[i], route.source.member, now_s, &flood)
            if to & (to - 1) == 0 and to:
                next_member = lowest_bit64(to)
                if next_member == member:
                    mask |= <uint32_t>1 << i
                    continue
        # Frames in a row for one member go together.
        if mask:
            left = _put_or_hold(table, member, burst, mask, hold_ns)
            if left:
                route.source.row[TX_HELD] += 1
                route.awaited = table.sinks[member]
                return lowest_bit(left)
        member = next_member
        mask = <uint32_t>1 << i if member >= 0 else 0
        if member >= 0 or i == count:
            continue
        if to == 0:
            route.source.row[TX_FILTERED] += 1
        elif flood and storm_ns and not may_flood(
                route.source, storm_ns * pieces(&burst.frames[i]), burst.now_ns):
            route.source.row[TX_STORM] += 1
            route.source.row[TX_DISCARDS] += 1
        else:
            # What goes to several does not wait: some would get it twice.
            left = <uint32_t>1 << i
            while to:
                member = lowest_bit64(to)
                to &= to - 1
                _put(table, member, burst, left, PUT_DROP)
                if to:
                    again(burst, left, cursor)
            member = -1
    return count
