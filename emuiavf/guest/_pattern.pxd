"""What fills the generator's frames, and the checksum over them: four lanes of 64-bit words."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset


cdef extern from * nogil:
    """
    #define PRIME UINT64_C(0x9E3779B97F4A7C15)
    #define STRIDE UINT64_C(0xD1B54A32D192ED03)
    """
    uint64_t PRIME
    uint64_t STRIDE


cdef struct Lanes:
    uint64_t[4] lane


cdef inline void lanes_init(Lanes *lanes, uint32_t length) noexcept nogil:
    lanes.lane[0] = PRIME ^ length
    lanes.lane[1] = STRIDE
    lanes.lane[2] = ~PRIME
    lanes.lane[3] = ~STRIDE


cdef inline void lanes_add(Lanes *lanes, const uint64_t *words) noexcept nogil:
    """Take in 32 bytes.  Each step is a bijection of its lane, so no single change gets lost."""
    lanes.lane[0] = (lanes.lane[0] ^ words[0]) * PRIME
    lanes.lane[1] = (lanes.lane[1] ^ words[1]) * PRIME
    lanes.lane[2] = (lanes.lane[2] ^ words[2]) * PRIME
    lanes.lane[3] = (lanes.lane[3] ^ words[3]) * PRIME


cdef inline uint32_t lanes_fold(const Lanes *lanes) noexcept nogil:
    cdef uint64_t h = lanes.lane[0]
    h = (h ^ (h >> 32)) * STRIDE + lanes.lane[1]
    h = (h ^ (h >> 32)) * STRIDE + lanes.lane[2]
    h = (h ^ (h >> 32)) * STRIDE + lanes.lane[3]
    h = (h ^ (h >> 32)) * STRIDE
    return <uint32_t>(h >> 32)


cdef inline void lanes_add_bytes(Lanes *lanes, const uint8_t *data, uint32_t size) noexcept nogil:
    """Take in the rest of a frame: whole 32-byte blocks, the last one padded with zeros."""
    cdef uint64_t words[4]
    cdef uint32_t at = 0
    while size - at >= 32:
        lanes_add(lanes, <const uint64_t *>(data + at))
        at += 32
    if at < size:
        memset(words, 0, 32)
        memcpy(words, data + at, size - at)
        lanes_add(lanes, words)


cdef inline void fill(uint8_t *data, uint32_t size, uint64_t seed) noexcept nogil:
    """The pattern of one piece of a frame; whole words, so up to 7 bytes more than `size`."""
    cdef uint64_t *words = <uint64_t *>data
    cdef uint32_t i, count = (size + 7) // 8
    for i in range(count):
        words[i] = seed + i * STRIDE
