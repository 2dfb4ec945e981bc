"""Tails: how many descriptors a driver has posted, without reading its word each time.

A driver writes the word for each of its bursts, on another core, and past all caches where the CPU
has MOVDIRI (DPDK uses it): a read then waits for memory.  What was read once holds, for a driver
only posts more.  So a worker remembers it, and reads again when it is short of descriptors.  A
remembered tail that is equal to the head says that nothing is known.
"""

from libc.stdint cimport uint32_t


cdef inline uint32_t ring_ahead(uint32_t head, uint32_t tail, uint32_t ring_len) noexcept nogil:
    """Descriptors from the head on up to the tail, both below `ring_len`."""
    return tail - head if tail >= head else tail + ring_len - head
