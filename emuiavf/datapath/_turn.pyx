"""One turn of a worker: every source of its plan served, every poller called."""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf._atomic cimport store_relaxed_u64
from emuiavf._bits cimport count_bits, low_bits
from emuiavf.datapath._bucket cimport BUCKET_DEPTH_NS, bucket_pay, bucket_saved
from emuiavf.datapath._deliver cimport Route, deliver_many, deliver_one
from emuiavf.datapath._frame cimport FOREVER, TX_BYTES, TX_ERRORS, TX_SPOOFED, Burst
from emuiavf.datapath._plan cimport Plan
from emuiavf.datapath._promise cimport deliver_promised
from emuiavf.datapath._switch cimport guard_done, guard_take


# A source that has waited so long in a switch and has not had its promise yet does not wait for the
# rest of it: as much is forfeited anyway, and a member that takes a frame now and then would decide
# what goes to all others.
cdef uint64_t UNMET_NS = BUCKET_DEPTH_NS

cdef enum:
    # Of a source that is short of its promise, before all others have their turn.
    PROMISED_TAKES = 8
    # What a frame that is refused costs of a promise: it has had its turn too.
    REFUSED_BYTES = 64


cdef inline int _serve(Turn *turn, Route *route, uint64_t now, bint promised) noexcept nogil:
    """Serve a source once; returns what has become of its frames, TURN_... together.

    `promised`: what it sends now is of the share that it was promised.
    """
    cdef Burst *burst = turn.burst
    cdef uint32_t spoofed = 0
    cdef int count, finished, seen = 0
    burst.whole = 0
    burst.alike = 0
    count = route.source.take(route.source, burst)
    if count <= 0:
        if count < 0 and route.source.due_ns < turn.due_ns:
            turn.due_ns = route.source.due_ns
        return 0
    finished = count
    if route.guard != NULL:
        burst.alike = 0
        spoofed = guard_take(route.guard, burst, count)
    if route.one != NULL:
        finished = deliver_one(route, burst, count, turn.hold_ns)
    elif promised:
        finished = deliver_promised(route, burst, count, turn.hold_ns)
    elif route.many != NULL:
        deliver_many(route, burst, count)
    if finished > 0 or route.source.held_since == now:
        seen |= TURN_MOVED
    if finished < count:
        seen |= TURN_HELD
    if route.guard != NULL:
        guard_done(route.guard, burst, count)
        route.source.row[TX_SPOOFED] += count_bits(spoofed & low_bits(finished))
    route.source.done(route.source, burst, finished)
    return seen


cdef inline uint64_t _used(const Route *route) noexcept nogil:
    """Bytes of its promise that a source has used, from one look to the next."""
    return route.source.row[TX_BYTES] + REFUSED_BYTES * route.source.row[TX_ERRORS]


cdef inline bint _may_wait(const Route *route, uint64_t now) noexcept nogil:
    cdef uint64_t since = route.source.held_since
    return route.many != NULL and (since == 0 or now - since <= UNMET_NS)


cdef int _serve_promises(Turn *turn, Plan *plan, uint64_t now) noexcept nogil:
    """Those who are short of what they were promised first, then everybody in turn."""
    cdef Route *route
    cdef uint64_t before
    cdef uint32_t r
    cdef int _take, did, seen = 0
    for r in range(plan.num_routes):
        route = &plan.routes[r]
        route.awaited = NULL
        did = 0
        if route.promise == NULL or route.many == NULL and route.one == NULL:
            continue
        for _take in range(PROMISED_TAKES):
            if not bucket_saved(route.promise, now):
                break
            before = _used(route)
            did = _serve(turn, route, now, _may_wait(route, now))
            seen |= did
            bucket_pay(route.promise, &route.owed, _used(route) - before, now)
            if did != TURN_MOVED:
                break
        if route.many == NULL:
            continue
        if not bucket_saved(route.promise, now) or did == 0 and _may_wait(route, now):
            route.source.held_since = 0
            if route.awaited != NULL:
                # It has had its share meanwhile: the rest is like everybody's.
                store_relaxed_u64(&route.awaited.full_since, 0)
                route.awaited = NULL
        elif route.awaited != NULL and route.source.held_since == 0:
            route.source.held_since = now
    for r in range(plan.num_routes):
        if plan.routes[r].awaited == NULL:
            seen |= _serve(turn, &plan.routes[r], now, False)
    return seen


cdef int turn_serve(Turn *turn, Plan *plan, uint64_t now) noexcept nogil:
    cdef uint32_t r
    cdef int seen = 0
    turn.burst.now_ns = now
    turn.due_ns = FOREVER
    if plan.promises:
        return _serve_promises(turn, plan, now)
    for r in range(plan.num_routes):
        seen |= _serve(turn, &plan.routes[r], now, False)
    return seen


cdef uint64_t turn_poll(Plan *plan, uint64_t now) noexcept nogil:
    cdef uint64_t due = FOREVER, wanted
    cdef uint32_t p
    for p in range(plan.num_pollers):
        wanted = plan.pollers[p].poll(plan.pollers[p], now)
        if wanted < due:
            due = wanted
    return due
