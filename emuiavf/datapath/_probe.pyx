"""Python face of the offload code, for tests and benches; nothing in the product imports it.

The kernels in include/ are compiled into every extension that uses them, so `use_kernel` changes
this module's own copy and nobody else's.
"""

from libc.stdint cimport uint8_t, uint32_t
from emuiavf.datapath._offload cimport (
    CSUM_AVX2, CSUM_AVX512, CSUM_SCALAR, TOEPLITZ_CLMUL, TOEPLITZ_LOOP, Csum, ToeplitzKey,
    crc32c_add, crc32c_add_table, crc32c_final, csum_add, csum_add_copy, csum_fold, csum_init,
    csum_use, frame_copy, toeplitz_hash, toeplitz_prepare, toeplitz_use)


KERNELS = {"scalar": CSUM_SCALAR, "avx2": CSUM_AVX2, "avx512": CSUM_AVX512}
HASHES = {"loop": TOEPLITZ_LOOP, "clmul": TOEPLITZ_CLMUL}


def use_kernel(str name) -> bool:
    """Force one of KERNELS for the sums of this module; False when the CPU lacks it."""
    return csum_use(KERNELS[name]) == 1


def use_hash(str name) -> bool:
    """Force one of HASHES for this module; False when the CPU lacks it."""
    return toeplitz_use(HASHES[name]) == 1


def csum(*pieces) -> int:
    """One's complement sum of the pieces in memory order, folded, not inverted."""
    cdef Csum state
    cdef const uint8_t[::1] view
    csum_init(&state)
    for piece in pieces:
        if len(piece):
            view = piece
            csum_add(&state, &view[0], view.shape[0])
        else:
            csum_add(&state, NULL, 0)
    return csum_fold(&state)


def csum_copy(uint8_t[::1] dst, const uint8_t[::1] src, size_t piece) -> int:
    """Copies src to dst in pieces of `piece` bytes and returns the sum of all of them."""
    cdef Csum state
    cdef size_t at = 0, size = src.shape[0]
    csum_init(&state)
    while at < size:
        csum_add_copy(&state, &dst[at], &src[at], min(piece, size - at))
        at += min(piece, size - at)
    return csum_fold(&state)


def copy(uint8_t[::1] dst, const uint8_t[::1] src):
    """frame_copy of the whole of src."""
    if src.shape[0]:
        frame_copy(&dst[0], &src[0], src.shape[0])


def crc32c(data, *, bint table=False) -> int:
    """CRC32c of the bytes; `table` forces the form for CPUs without the instruction."""
    cdef const uint8_t[::1] view
    cdef uint32_t crc = 0xffffffff
    if len(data):
        view = data
        if table:
            crc = crc32c_add_table(crc, &view[0], view.shape[0])
        else:
            crc = crc32c_add(crc, &view[0], view.shape[0])
    return crc32c_final(crc)


cdef int prepare(ToeplitzKey *state, const uint8_t[::1] key) except -1:
    if key.shape[0] != 52:
        raise ValueError(f"RSS key: {key.shape[0]} bytes, must be 52")
    toeplitz_prepare(state, &key[0])
    return 0


def toeplitz(const uint8_t[::1] key, const uint8_t[::1] addresses, ports=None) -> int:
    """Toeplitz hash of 8 or 32 bytes of addresses and, unless None, 4 bytes of ports."""
    cdef ToeplitzKey state
    cdef const uint8_t[::1] tail
    prepare(&state, key)
    if addresses.shape[0] not in (8, 32):
        raise ValueError(f"addresses: {addresses.shape[0]} bytes, must be 8 or 32")
    if ports is None:
        return toeplitz_hash(&state, &addresses[0], addresses.shape[0] // 4, NULL)
    tail = ports
    if tail.shape[0] != 4:
        raise ValueError(f"ports: {tail.shape[0]} bytes, must be 4")
    return toeplitz_hash(&state, &addresses[0], addresses.shape[0] // 4, &tail[0])
