"""See _phc.pyx."""

from libc.stdint cimport uint64_t


# Nanoseconds since 1970.
cdef uint64_t phc_now() noexcept nogil
