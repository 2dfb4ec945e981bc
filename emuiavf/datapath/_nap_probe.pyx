"""Python face of include/nap.h, for tests and benches; nothing in the product imports it."""

from libc.stdint cimport uint32_t, uint64_t

from emuiavf.datapath cimport _nap
from emuiavf.datapath._nap cimport (
    nap_break, nap_clock, nap_init, nap_longest, nap_look, nap_next,
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
GROWTH = _nap.NAP_GROWTH
SHORTEST_NS = _nap.NAP_SHORTEST_NS
LONGEST_NS = _nap.NAP_LONGEST_NS
LOOKS = _nap.NAP_LOOKS


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
        return nap_next(idle_ns, nap_longest(&self.nap, ppm))

    def cut(self) -> None:
        """nap_break; that name is taken."""
        nap_break(&self.nap)

    def look(self) -> bool:
        return nap_look(&self.nap)

    def clock(self, uint64_t cpu_ns) -> None:
        nap_clock(&self.nap, cpu_ns)


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
