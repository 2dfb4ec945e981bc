"""The poll loop: takes bursts from sources, routes them, puts them to their destinations.

A worker runs without the GIL from start to stop.  What it may see is one immutable Plan, published
by pointer; control frees an old one after every worker has passed a turn or sleeps (grace()).
"""

import os

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from emuiavf._atomic cimport (
    add_u32, cpu_pause, fence_seq, load_acquire_ptr, load_relaxed_u32, load_seq_u32,
    store_relaxed_u64, store_release_u32, store_seq_ptr, store_seq_u32,
)
from emuiavf._bits cimport count_bits, low_bits
from emuiavf.datapath._bucket cimport BUCKET_DEPTH_NS, bucket_pay, bucket_saved
from emuiavf.datapath._deliver cimport Route, deliver_many, deliver_one
from emuiavf.datapath._endpoint cimport Endpoint, SourceRef
from emuiavf.datapath._frame cimport TX_BYTES, TX_ERRORS, TX_SPOOFED, Burst, Poller
from emuiavf.datapath._nap cimport (
    NAP_DEVICE_PPM, Nap, nap_break, nap_clock, nap_init, nap_longest, nap_look, nap_next,
)
from emuiavf.datapath._promise cimport deliver_promised
from emuiavf.datapath._switch cimport (
    GuardTable, Learned, Switch, guard_done, guard_take, switch_build, switch_free,
)

from emuiavf.errors import StateError


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept


cdef extern from "wait.h" nogil:
    ctypedef struct PollFd "struct pollfd":
        int fd
        short events
        short revents
    enum:
        POLLIN
    uint64_t monotonic_ns() noexcept
    uint64_t cpu_ticks() noexcept
    uint64_t thread_cpu_ns() noexcept
    void futex_wait(uint32_t *word, uint32_t seen, uint64_t timeout_ns) noexcept
    void futex_wake(uint32_t *word) noexcept
    void short_slice(uint64_t slice_ns) noexcept
    void exact_sleeps() noexcept
    void event_signal(int fd) noexcept
    void event_clear(int fd) noexcept
    int poll_ns(PollFd *fds, uint32_t count, uint64_t timeout_ns) noexcept


# How long a 1:1 connection waits for room before it drops (design 4, back-pressure).
cdef uint64_t HOLD_NS = 1_000_000
# An idle adaptive worker spins this long, then sleeps (include/nap.h).
cdef uint64_t SPIN_NS = 20_000
cdef uint64_t HELD_SLEEP_NS = 50_000
# A worker that never sleeps offers its CPU this often: a control thread that woke on the same CPU
# would else wait for the scheduler's tick, and with more than one worker for several
# (bench_control: the slowest DMA_UNMAP with every core taken).  Costs 0.2 us each time.
cdef uint64_t YIELD_NS = 100_000
# Control looks this long for a worker's acknowledgement before it sleeps.
cdef uint64_t GRACE_SPIN_NS = 10_000
# A source that has waited so long in a switch and has not had its promise yet does not wait for the
# rest of it: as much is forfeited anyway, and a member that takes a frame now and then would decide
# what goes to all others.
cdef uint64_t UNMET_NS = BUCKET_DEPTH_NS
cdef uint64_t SECOND_NS = 1_000_000_000
# A worker that moves frames reads the clock this often: 2 to 4 us.
cdef uint64_t CLOCK_TICKS = 8192
cdef uint64_t FOREVER = 0xFFFFFFFFFFFFFFFF

cdef enum:
    # Of a source that is short of its promise, before all others have their turn.
    PROMISED_TAKES = 8
    # What a frame that is refused costs of a promise: it has had its turn too.
    REFUSED_BYTES = 64
    SLEEP_FDS = 64     # a sleep waits for so many; a worker with more also looks by itself


cdef struct Plan:
    Route *routes
    Poller **pollers
    PollFd *fds        # [0] is the wake-up; its sources' fds follow
    uint32_t num_routes
    uint32_t num_pollers
    uint32_t num_fds
    uint32_t polled    # some source can only be found by looking
    uint32_t idle_ppm  # what looking may cost, of a core
    uint32_t promises  # some source is promised a share


cdef struct WorkerState:
    Plan *plan
    Burst *burst
    int wake_fd
    uint32_t adaptive
    uint32_t napping      # about to sleep: wake() must write wake_fd
    uint32_t quiescent    # asleep: holds no pointer of any plan or table
    uint32_t stop
    uint32_t grace_wanted
    uint32_t grace_done
    uint32_t awaited      # control sleeps until grace_done changes
    Nap nap
    uint64_t hold_ns
    uint64_t due_ns       # when the first source that holds frames back may send, this turn
    uint64_t turns


cdef inline int _serve(WorkerState *w, Route *route, uint64_t now, bint promised) noexcept nogil:
    """Serve a source once; returns bit 0 when something moved, bit 1 when something is held.

    `promised`: what it sends now is of the share that it was promised.
    """
    cdef Burst *burst = w.burst
    cdef uint32_t spoofed = 0
    cdef int count, finished, seen = 0
    burst.whole = 0
    burst.alike = 0
    count = route.source.take(route.source, burst)
    if count <= 0:
        if count < 0 and route.source.due_ns < w.due_ns:
            w.due_ns = route.source.due_ns
        return 0
    finished = count
    if route.guard != NULL:
        burst.alike = 0
        spoofed = guard_take(route.guard, burst, count)
    if route.one != NULL:
        finished = deliver_one(route, burst, count, w.hold_ns)
    elif promised:
        finished = deliver_promised(route, burst, count, w.hold_ns)
    elif route.many != NULL:
        deliver_many(route, burst, count)
    if finished > 0 or route.source.held_since == now:
        seen |= 1
    if finished < count:
        seen |= 2
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


cdef int _turn_with_promises(WorkerState *w, Plan *plan, uint64_t now) noexcept nogil:
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
            did = _serve(w, route, now, _may_wait(route, now))
            seen |= did
            bucket_pay(route.promise, &route.owed, _used(route) - before, now)
            if did != 1:
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
            seen |= _serve(w, &plan.routes[r], now, False)
    return seen


cdef int _turn(WorkerState *w, Plan *plan, uint64_t now) noexcept nogil:
    """Serve every source once; returns bit 0 when something moved, bit 1 when something is held."""
    cdef uint32_t r
    cdef int seen = 0
    w.burst.now_ns = now
    w.due_ns = FOREVER
    if plan.promises:
        return _turn_with_promises(w, plan, now)
    for r in range(plan.num_routes):
        seen |= _serve(w, &plan.routes[r], now, False)
    return seen


cdef uint64_t _poll(Plan *plan, uint64_t now) noexcept nogil:
    """Call every poller; returns when the first wants to be called again."""
    cdef uint64_t due = FOREVER, wanted
    cdef uint32_t p
    for p in range(plan.num_pollers):
        wanted = plan.pollers[p].poll(plan.pollers[p], now)
        if wanted < due:
            due = wanted
    return due


cdef inline void _acknowledge(WorkerState *w) noexcept nogil:
    cdef uint32_t wanted = load_seq_u32(&w.grace_wanted)
    if wanted != w.grace_done:
        store_seq_u32(&w.grace_done, wanted)
        if load_seq_u32(&w.awaited):
            futex_wake(&w.grace_done)


cdef bint _sleep(WorkerState *w, Plan *plan, uint64_t timeout_ns, bint held) noexcept nogil:
    """Sleep without a pointer into any table; control may free them meanwhile.

    Returns whether nothing ended it before its time.
    """
    cdef PollFd fds[SLEEP_FDS]
    cdef uint32_t i, count = plan.num_fds if plan.num_fds < SLEEP_FDS else SLEEP_FDS
    cdef bint lasted
    # A source whose frames are held stays readable: its fd would end every sleep at once.
    if held:
        count = 1
    for i in range(count):
        fds[i] = plan.fds[i]
    store_seq_u32(&w.quiescent, 1)
    _acknowledge(w)
    lasted = poll_ns(fds, count, timeout_ns)
    store_seq_u32(&w.quiescent, 0)
    # Control publishes, then looks at `quiescent`; we clear it, then look at what is published.
    fence_seq()
    if fds[0].revents:
        event_clear(w.wake_fd)
    return lasted


cdef void _run(WorkerState *w) noexcept nogil:
    cdef Plan *plan
    cdef uint64_t now = monotonic_ns(), last_work = now, last_yield = now, due, timeout
    cdef uint64_t longest, read_at = 0
    cdef int seen = 0
    while not load_relaxed_u32(&w.stop):
        # Here, where no pointer of the last turn is in use any more, the plan's own included.
        _acknowledge(w)
        plan = <Plan *>load_acquire_ptr(<void **>&w.plan)
        # Busy turns take less than a microsecond, most of them.
        if not seen & 1 or cpu_ticks() - read_at > CLOCK_TICKS:
            now = monotonic_ns()
            read_at = cpu_ticks()
        seen = _turn(w, plan, now)
        due = _poll(plan, now)
        if w.due_ns < due:
            due = w.due_ns
        w.turns += 1
        if now - last_yield > YIELD_NS:
            last_yield = now
            sched_yield()
        if seen & 1:
            last_work = now
            if w.napping:
                store_seq_u32(&w.napping, 0)
                nap_break(&w.nap)
            continue
        if not w.adaptive or now - last_work < SPIN_NS:
            cpu_pause()
            continue
        if not w.napping:
            # Whoever rings from here on also writes wake_fd; one more turn finds what came before.
            store_seq_u32(&w.napping, 1)
            fence_seq()
            continue
        timeout = longest = FOREVER
        if plan.polled:
            longest = nap_longest(&w.nap, plan.idle_ppm)
            timeout = nap_next(now - last_work, longest)
        if seen & 2 and timeout > HELD_SLEEP_NS:
            timeout = HELD_SLEEP_NS
        if due != FOREVER and (due <= now or timeout > due - now):
            timeout = due - now if due > now else 0
        # The longest sleeps are those that the measure is for, and the dearest: a CPU that has
        # rested longer has more to do to wake up.
        if timeout != longest or longest == FOREVER:
            nap_break(&w.nap)
        elif nap_look(&w.nap):
            nap_clock(&w.nap, thread_cpu_ns())
        if not _sleep(w, plan, timeout, seen & 2):
            nap_break(&w.nap)
        # It has offered its CPU.
        last_yield = monotonic_ns()
        # napping stays set until there is work: a wake-up may always be written.
    store_seq_u32(&w.quiescent, 1)
    _acknowledge(w)


cdef void _plan_free(Plan *plan) noexcept:
    if plan != NULL:
        free(plan.routes)
        free(plan.pollers)
        free(plan.fds)
        free(plan)


cdef class SwitchTable:
    """Owner of one built switch; freed when the last plan that uses it is gone.

    `learned`: the Learned of its ports, or None.  `storm`: frames per second that each of its
    sources may flood, 0 for no limit.
    """
    cdef Switch *table
    cdef object _learned

    def __cinit__(self, list members, Learned learned=None, uint64_t storm=0):
        self._learned = learned
        self.table = switch_build(members, learned, SECOND_NS // storm if storm else 0)

    def __dealloc__(self):
        switch_free(self.table)


cdef class Worker:
    """One poll loop.  Control calls everything but `run`."""
    cdef WorkerState state
    cdef list _kept        # what the published plan points into
    cdef list _retired     # (plan pointer as int, kept) until the next grace

    def __cinit__(self, bint adaptive, uint64_t hold_ns=HOLD_NS):
        memset(&self.state, 0, sizeof(WorkerState))
        self.state.wake_fd = -1
        self.state.burst = <Burst *>aligned_alloc(64, sizeof(Burst))
        if self.state.burst == NULL:
            raise MemoryError
        memset(self.state.burst, 0, sizeof(Burst))
        self.state.adaptive = adaptive
        self.state.hold_ns = hold_ns
        nap_init(&self.state.nap)
        self.state.quiescent = 1
        self.state.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._kept = []
        self._retired = []
        self.publish([], [])

    def __dealloc__(self):
        _plan_free(self.state.plan)
        free(self.state.burst)
        if self.state.wake_fd >= 0:
            os.close(self.state.wake_fd)

    def publish(self, list routes, list endpoints, double devices=0) -> None:
        """Show the worker what to serve from its next turn on.

        `routes`: (SourceRef, destination, guard, promised), the destination an Endpoint (1:1), a
        SwitchTable or None, the guard a GuardTable or None.  `endpoints`: those whose poller this
        worker calls.  `devices`: of how many it pays for looks while they are idle, in parts where
        others look too.  What the old plan used stays alive until `reclaim()`, which the caller
        calls after a grace.
        """
        cdef Plan *plan = <Plan *>calloc(1, sizeof(Plan))
        cdef SourceRef ref
        cdef Endpoint endpoint
        cdef Route *route
        if plan == NULL:
            raise MemoryError
        plan.routes = <Route *>calloc(max(1, len(routes)), sizeof(Route))
        plan.pollers = <Poller **>calloc(max(1, len(endpoints)), sizeof(Poller *))
        plan.fds = <PollFd *>calloc(1 + len(routes), sizeof(PollFd))
        if plan.routes == NULL or plan.pollers == NULL or plan.fds == NULL:
            _plan_free(plan)
            raise MemoryError
        plan.fds[0].fd = self.state.wake_fd
        plan.fds[0].events = POLLIN
        plan.num_fds = 1
        plan.idle_ppm = <uint32_t>(devices * NAP_DEVICE_PPM)
        for ref, destination, guard, promised in routes:
            route = &plan.routes[plan.num_routes]
            plan.num_routes += 1
            route.source = ref.source
            if guard is not None:
                route.guard = &(<GuardTable?>guard).guard
            if isinstance(destination, SwitchTable):
                route.many = (<SwitchTable>destination).table
            elif destination is not None:
                route.one = (<Endpoint?>destination).sink
            if promised:
                route.promise = (<Endpoint?>ref.owner).promise
                plan.promises = 1
            if ref.source.fd >= 0:
                plan.fds[plan.num_fds].fd = ref.source.fd
                plan.fds[plan.num_fds].events = POLLIN
                plan.num_fds += 1
            if isinstance(ref.owner, Endpoint) and (<Endpoint>ref.owner).polled:
                plan.polled = 1
        if plan.num_fds > SLEEP_FDS:
            plan.polled = 1
        for endpoint in endpoints:
            if endpoint.poller != NULL:
                plan.pollers[plan.num_pollers] = endpoint.poller
                plan.num_pollers += 1
                endpoint.poller.wake_fd = self.state.wake_fd
                endpoint.poller.napping = &self.state.napping
                if endpoint.polled:
                    plan.polled = 1
        self._retired.append((<size_t>self.state.plan, self._kept))
        self._kept = [routes, endpoints]
        store_seq_ptr(<void **>&self.state.plan, plan)
        self.wake()

    def run(self) -> None:
        """The loop, without the GIL, until `stop()`."""
        store_seq_u32(&self.state.quiescent, 0)
        fence_seq()
        with nogil:
            short_slice(YIELD_NS)
            exact_sleeps()
            _run(&self.state)

    def step(self, uint32_t turns, uint64_t at_ns=0) -> int:
        """Make turns in the caller's thread, for tests and benches; the worker must not run.

        `at_ns`: the time that it is for them, instead of the clock's.  Returns how many of them
        moved something.
        """
        cdef uint32_t moved = 0, _turn_number
        cdef uint64_t now
        if not self.state.quiescent:
            raise StateError("the worker runs")
        with nogil:
            for _turn_number in range(turns):
                now = at_ns or monotonic_ns()
                if _turn(&self.state, self.state.plan, now) & 1:
                    moved += 1
                _poll(self.state.plan, now)
        return moved

    def release(self, Endpoint endpoint) -> None:
        """Forget an endpoint that no published plan has: its poller wakes nobody any more."""
        if endpoint.poller != NULL and endpoint.poller.napping == &self.state.napping:
            endpoint.poller.napping = NULL
            endpoint.poller.wake_fd = -1

    def stop(self) -> None:
        store_release_u32(&self.state.stop, 1)
        event_signal(self.state.wake_fd)

    def wake(self) -> None:
        """There may be something to do: end its sleep, if it sleeps."""
        if load_seq_u32(&self.state.napping):
            event_signal(self.state.wake_fd)

    def begin_grace(self) -> int:
        """Ask for an acknowledgement; `end_grace` waits for it."""
        return add_u32(&self.state.grace_wanted, 1)

    def end_grace(self, uint32_t wanted) -> None:
        """Wait until the worker has passed the end of a turn since `begin_grace`, or sleeps."""
        cdef uint32_t seen
        cdef uint64_t until
        with nogil:
            # Most often it runs and is there in no time.
            until = monotonic_ns() + GRACE_SPIN_NS
            while not self._has_passed(wanted) and monotonic_ns() < until:
                cpu_pause()
            while True:
                # First this, then the look: a worker that passes in between wakes us.
                store_seq_u32(&self.state.awaited, 1)
                seen = load_seq_u32(&self.state.grace_done)
                if self._has_passed(wanted):
                    break
                # The time limit covers a worker that stopped between the two looks.
                futex_wait(&self.state.grace_done, seen, 20_000_000)
            store_seq_u32(&self.state.awaited, 0)

    cdef bint _has_passed(self, uint32_t wanted) noexcept nogil:
        return (load_seq_u32(&self.state.quiescent)
                or <int32_t>(load_seq_u32(&self.state.grace_done) - wanted) >= 0)

    def reclaim(self) -> None:
        """Free retired plans; a grace must have passed since they were replaced."""
        for pointer, _ in self._retired:
            _plan_free(<Plan *><size_t>pointer)
        self._retired.clear()

    @property
    def turns(self) -> int:
        return self.state.turns

    @property
    def idle_ppm(self) -> int:
        """What its looks may cost while there is nothing to do, in millionths of a core."""
        return self.state.plan.idle_ppm

    @property
    def graces(self) -> int:
        """How many acknowledgements it has been asked for."""
        return self.state.grace_wanted
