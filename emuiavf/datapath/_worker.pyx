"""The poll loop: takes bursts from sources, routes them, puts them to their destinations.

A worker runs without the GIL from start to stop.  What it may see is one immutable Plan, published
by pointer; control frees an old one after every worker has passed a turn or sleeps (grace()).
"""

import os

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from emuiavf._atomic cimport (
    add_u32, cpu_pause, fence_seq, load_acquire_ptr, load_relaxed_u32, load_seq_u32,
    store_release_u32, store_seq_ptr, store_seq_u32,
)
from emuiavf.datapath._endpoint cimport Endpoint
from emuiavf.datapath._frame cimport FOREVER, Burst
from emuiavf.datapath._nap cimport (
    Nap, nap_break, nap_clock, nap_init, nap_longest, nap_look, nap_next,
)
from emuiavf.datapath._plan cimport SLEEP_FDS, Plan, PollFd, plan_build, plan_free
from emuiavf.datapath._spin cimport (
    Spin, spin_clock, spin_end, spin_for, spin_init, spin_watch, spin_worked,
)
from emuiavf.datapath._turn cimport TURN_HELD, TURN_MOVED, Turn, turn_poll, turn_serve

from emuiavf.errors import StateError


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept


cdef extern from "wait.h" nogil:
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
cdef uint64_t HELD_SLEEP_NS = 50_000
# A worker that never sleeps offers its CPU this often: a control thread that woke on the same CPU
# would else wait for the scheduler's tick, and with more than one worker for several
# (bench_control: the slowest DMA_UNMAP with every core taken).  Costs 0.2 us each time.
cdef uint64_t YIELD_NS = 100_000
# Control looks this long for a worker's acknowledgement before it sleeps.
cdef uint64_t GRACE_SPIN_NS = 10_000
# A worker that moves frames reads the clock this often: 2 to 4 us.
cdef uint64_t CLOCK_TICKS = 8192


cdef struct WorkerState:
    Plan *plan
    Turn turn
    int wake_fd
    uint32_t adaptive
    uint32_t napping      # about to sleep: wake() must write wake_fd
    uint32_t quiescent    # asleep: holds no pointer of any plan or table
    uint32_t stop
    uint32_t grace_wanted
    uint32_t grace_done
    uint32_t awaited      # control sleeps until grace_done changes
    Spin spin
    Nap nap
    uint64_t turns


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
        if not seen & TURN_MOVED or cpu_ticks() - read_at > CLOCK_TICKS:
            now = monotonic_ns()
            read_at = cpu_ticks()
        seen = turn_serve(&w.turn, plan, now)
        due = turn_poll(plan, now)
        if w.turn.due_ns < due:
            due = w.turn.due_ns
        w.turns += 1
        if now - last_yield > YIELD_NS:
            last_yield = now
            sched_yield()
        if seen & TURN_MOVED:
            # The first of what the last of the turn's bursts brought stands for all.
            spin_worked(&w.spin, now - last_work, w.turn.burst.frames[0].len)
            last_work = now
            if w.napping:
                store_seq_u32(&w.napping, 0)
                nap_break(&w.nap)
            continue
        if not w.adaptive:
            cpu_pause()
            continue
        if now - last_work < spin_for(&w.spin, now):
            if spin_watch(&w.spin, now):
                spin_clock(&w.spin, now, thread_cpu_ns())
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
            timeout = nap_next(&w.nap, now - last_work, longest)
        if seen & TURN_HELD and timeout > HELD_SLEEP_NS:
            timeout = HELD_SLEEP_NS
        if due != FOREVER and (due <= now or timeout > due - now):
            timeout = due - now if due > now else 0
        # The longest sleeps are those that the measure is for, and the dearest: a CPU that has
        # rested longer has more to do to wake up.
        if timeout != longest or longest == FOREVER:
            nap_break(&w.nap)
        elif nap_look(&w.nap):
            nap_clock(&w.nap, thread_cpu_ns())
        spin_end(&w.spin)
        if not _sleep(w, plan, timeout, seen & TURN_HELD):
            nap_break(&w.nap)
        # It has offered its CPU.
        last_yield = monotonic_ns()
        # napping stays set until there is work: a wake-up may always be written.
    store_seq_u32(&w.quiescent, 1)
    _acknowledge(w)


cdef class Worker:
    """One poll loop.  Control calls everything but `run`."""
    cdef WorkerState state
    cdef list _kept        # what the published plan points into
    cdef list _retired     # (plan pointer as int, kept) until the next grace

    def __cinit__(self, bint adaptive, uint64_t hold_ns=HOLD_NS):
        memset(&self.state, 0, sizeof(WorkerState))
        self.state.wake_fd = -1
        self.state.turn.burst = <Burst *>aligned_alloc(64, sizeof(Burst))
        if self.state.turn.burst == NULL:
            raise MemoryError
        memset(self.state.turn.burst, 0, sizeof(Burst))
        self.state.adaptive = adaptive
        self.state.turn.hold_ns = hold_ns
        spin_init(&self.state.spin)
        nap_init(&self.state.nap)
        self.state.quiescent = 1
        self.state.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._kept = []
        self._retired = []
        self.publish([], [])

    def __dealloc__(self):
        plan_free(self.state.plan)
        free(self.state.turn.burst)
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
        cdef Plan *plan = plan_build(routes, endpoints, devices, self.state.wake_fd,
                                     &self.state.napping)
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
                if turn_serve(&self.state.turn, self.state.plan, now) & TURN_MOVED:
                    moved += 1
                turn_poll(self.state.plan, now)
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
            plan_free(<Plan *><size_t>pointer)
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
