"""See _ring_watch.pyx."""

from libc.stdint cimport uint32_t


# Registers in memory that a guest may write, and what was last known of them.
cdef struct Watch:
    uint32_t *words        # the shared memory: hostile
    uint32_t *known        # as words; ours
    uint32_t *places       # indexes of `words`: all that count, the watched ones first
    uint32_t num_places
    uint32_t num_watched
    uint32_t told          # control has been told and has not looked yet
    int fd


# A worker's look: tells control, once, that the guest has written a watched word.
cdef void watch_look(Watch *watch) noexcept nogil


cdef class RegisterWatch:
    cdef Watch watch
    cdef object _memory
    cdef frozenset _offsets
    cdef uint32_t _check(self, uint32_t offset) except? 0xFFFFFFFF
