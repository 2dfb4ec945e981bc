"""The card's PTP clock: one for all devices of a process.

It is set to the host's time of day when the process begins and then runs with CLOCK_MONOTONIC: at
the host's pace, which NTP may trim, but without its steps and leap seconds.  So does the clock of
a card under ice, which sets it from the system's time when it loads.
"""

from libc.stdint cimport uint64_t

import time


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept


cdef uint64_t _epoch():
    """Nanoseconds from 1970 to the zero of CLOCK_MONOTONIC, by the closest of some readings."""
    readings = []
    for _try in range(5):
        before = monotonic_ns()
        now = time.time_ns()
        after = monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]


cdef uint64_t _zero = _epoch()


cdef uint64_t phc_now() noexcept nogil:
    return monotonic_ns() + _zero


def phc_ns() -> int:
    """Nanoseconds since 1970, as Rx timestamps count them (of which they have 32 bits)."""
    return phc_now()
