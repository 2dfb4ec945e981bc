"""Slow, obvious forms of the kernels in emuiavf/include/: what the fast ones must agree with."""

import sys


def csum(data: bytes) -> int:
    """RFC 1071, 16 bits at a time in memory order; folded, not inverted."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), sys.byteorder)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def crc32c(data: bytes) -> int:
    """CRC-32 with the reflected Castagnoli polynomial, one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def toeplitz(key: bytes, data: bytes) -> int:
    """The definition: XOR of the 32-bit key windows at the positions of set input bits."""
    bits = int.from_bytes(key, "big")
    total = len(key) * 8
    result = 0
    for at in range(len(data) * 8):
        if data[at // 8] >> (7 - at % 8) & 1:
            result ^= bits >> (total - 32 - at) & 0xFFFFFFFF
    return result
