"""Declarations of include/toeplitz.h for Cython: every extension that cimports them has its own."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "toeplitz.h" nogil:
    # Precomputed for one 52-byte key: 36 bytes of input (IPv6 addresses and ports).
    ctypedef struct ToeplitzKey:
        pass

    void toeplitz_prepare(ToeplitzKey *key, const uint8_t *bytes52) noexcept
    # Makes a prepared key hash the XOR of both addresses and ports: both directions alike.
    void toeplitz_symmetric(ToeplitzKey *key) noexcept
    # `words` of addresses: 2 or 8; ports NULL: addresses only.
    uint32_t toeplitz_hash(const ToeplitzKey *key, const uint8_t *addresses, unsigned words,
                           const uint8_t *ports) noexcept
    # Of `count` flows of IPv4, each its addresses and ports in a row; room for a multiple of four.
    void toeplitz_flows(const ToeplitzKey *key, const uint8_t *const *flows, unsigned count,
                        uint32_t *hashes) noexcept
    enum:
        TOEPLITZ_LOOP
        TOEPLITZ_CLMUL
    int toeplitz_use(int kind) noexcept
    # Of one word of the input, for hashes of other fields.
    enum:
        TOEPLITZ_WINDOWS
    uint64_t toeplitz_window(const uint8_t *bytes52, unsigned word) noexcept
