"""Python face of include/nap.h and spin.h, for tests and benches; nothing in the product has it."""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf.datapath cimport _nap, _spin
from emuiavf.datapath._nap cimport (
    nap_break, nap_clock, nap_init, nap_longest, nap_look, nap_next,
)

from emuiavf.datapath._spin cimport (
    spin_clock, spin_end, spin_for, spin_init, spin_watch, spin_worked,
)


cdef extern from "<poll.h>" nogil:
    ctypedef struct PollFd "struct pollfd":
        pass


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept
    uint64_t thread_cpu_ns() noexcept
    void exact_sleeps() noexcept
    int poll_ns(PollFd *fds, uint32_t count, uint64_t timeout_ns) noexcept


DEVICE_PPM = _nap.NAP_DEVICE_PPM
GROWTH_NS = _nap.NAP_GROWTH_NS
SHORTEST_NS = _nap.NAP_SHORTEST_NS
LONGEST_NS = _nap.NAP_LONGEST_NS
LOOKS = _nap.NAP_LOOKS
SPIN_SHORT_NS = _spin.SPIN_SHORT_NS
SPIN_LONG_NS = _spin.SPIN_LONG_NS
SPIN_FRAME_LEN = _spin.SPIN_FRAME_LEN
SPIN_QUICK = _spin.SPIN_QUICK
SPIN_WATCHED_NS = _spin.SPIN_WATCHED_NS
SPIN_CROWDED_NS = _spin.SPIN_CROWDED_NS


cdef class Nap:
    """A Nap and its functions, without the `nap_`."""
    cdef _nap.Nap nap

    def __cinit__(self):
        nap_init(&self.nap)

    @property
    def look_ns(self) -> int:
        return self.nap.look_ns

    def longest(self, uint32_t ppm) -> int:
        return nap_longest(&self.nap, ppm)

    def next(self, uint64_t idle_ns, uint32_t ppm) -> int:
        return nap_next(&self.nap, idle_ns, nap_longest(&self.nap, ppm))

    def cut(self) -> None:
        """nap_break; that name is taken."""
        nap_break(&self.nap)

    def look(self) -> bool:
        return nap_look(&self.nap)

    def clock(self, uint64_t cpu_ns) -> None:
        nap_clock(&self.nap, cpu_ns)


cdef class Spin:
    """A Spin and its functions, without the `spin_`."""
    cdef _spin.Spin spin

    def __cinit__(self):
        spin_init(&self.spin)

    def worked(self, uint64_t waited_ns, uint32_t len) -> None:
        spin_worked(&self.spin, waited_ns, len)

    def lasts(self, uint64_t now_ns) -> int:
        """spin_for; that name is taken."""
        return spin_for(&self.spin, now_ns)

    def watch(self, uint64_t now_ns) -> bool:
        return spin_watch(&self.spin, now_ns)

    def clock(self, uint64_t now_ns, uint64_t cpu_ns) -> None:
        spin_clock(&self.spin, now_ns, cpu_ns)

    def end(self) -> None:
        spin_end(&self.spin)


def bare_sleeps(uint64_t sleep_ns, uint64_t for_ns) -> float:
    """The share of a core that a thread takes which does nothing but sleep, as a worker does."""
    cdef uint64_t began, cpu, took
    with nogil:
        exact_sleeps()
        began = monotonic_ns()
        cpu = thread_cpu_ns()
        while monotonic_ns() - began < for_ns:
            poll_ns(NULL, 0, sleep_ns)
        took = monotonic_ns() - began
        cpu = thread_cpu_ns() - cpu
    return <double>cpu / <double>took
