"""Checksum, copy, CRC32c and Toeplitz kernels against their slow forms, and at page edges."""

import ctypes
import mmap
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emuiavf.datapath import _probe
from tests.model import kernels

SIZES = [*range(301), 511, 512, 513, 1460, 1514, 4096, 9001, 16384]
RSS_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
).ljust(52, b"\0")
PATTERN = random.Random(1).randbytes(16384 + 64)


@pytest.fixture(params=sorted(_probe.KERNELS))
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    if not _probe.use_kernel(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    best = next(name for name in ("avx512", "avx2", "scalar") if _probe.use_kernel(name))
    assert best in _probe.KERNELS


@pytest.fixture(params=sorted(_probe.HASHES))
def hash_way(request: pytest.FixtureRequest) -> Iterator[str]:
    if not _probe.use_hash(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    if not _probe.use_hash("clmul"):
        _probe.use_hash("loop")


class Fenced:
    """Three pages of which only the middle ones may be touched."""

    def __init__(self, pages: int = 5) -> None:
        self.page = mmap.PAGESIZE
        self.room = mmap.mmap(-1, (pages + 2) * self.page)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.room))
        self.size = pages * self.page
        libc = ctypes.CDLL(None, use_errno=True)
        for edge in (self.base, self.base + self.page + self.size):
            assert libc.mprotect(ctypes.c_void_p(edge), self.page, 0) == 0

    def at_start(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        return (ctypes.c_ubyte * size).from_address(self.base + self.page)

    def at_end(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        return (ctypes.c_ubyte * size).from_address(self.base + self.page + self.size - size)


@pytest.fixture(scope="module")
def fences() -> tuple[Fenced, Fenced]:
    return Fenced(), Fenced()


def test_sum_every_size_and_alignment(kernel: str) -> None:
    for size in SIZES:
        for offset in range(0, 64, 1 if size < 200 else 13):
            data = PATTERN[offset : offset + size]
            assert _probe.csum(data) == kernels.csum(data), (size, offset)


def test_copy_with_sum_every_size_touches_nothing_else(kernel: str) -> None:
    for size in SIZES:
        offset = size % 37
        src = PATTERN[offset : offset + size]
        dst = bytearray(b"\xa5" * (size + 128))
        got = _probe.csum_copy(memoryview(dst)[64 : 64 + size], src, max(size, 1))
        assert got == kernels.csum(src), size
        assert dst == b"\xa5" * 64 + src + b"\xa5" * 64, size


def test_plain_copy_every_size_touches_nothing_else() -> None:
    for size in SIZES:
        src = PATTERN[size % 41 :][:size]
        dst = bytearray(b"\xa5" * (size + 64))
        _probe.copy(memoryview(dst)[32 : 32 + size], src)
        assert dst == b"\xa5" * 32 + src + b"\xa5" * 32, size


def test_kernels_stay_between_unmapped_pages(kernel: str, fences: tuple[Fenced, Fenced]) -> None:
    """A read or write outside of the range would end the test process."""
    source, target = fences
    for size in [size for size in SIZES if size]:
        for src, dst in (
            (source.at_start(size), target.at_end(size)),
            (source.at_end(size), target.at_start(size)),
        ):
            src[:] = list(PATTERN[:size])
            assert _probe.csum(src) == _probe.csum_copy(dst, src, size), size
            assert bytes(dst) == PATTERN[:size]
            ctypes.memset(dst, 0, size)
            _probe.copy(dst, src)
            assert bytes(dst) == PATTERN[:size]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=2000), piece=st.integers(1, 400))
def test_sum_does_not_depend_on_the_pieces(data: bytes, piece: int) -> None:
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    dst = bytearray(len(data))
    assert _probe.csum(*pieces) == kernels.csum(data)
    assert _probe.csum_copy(dst, data, piece) == kernels.csum(data)
    assert dst == data


@pytest.mark.parametrize("size", [64, 65, 4096, 16384])
def test_sum_of_all_ones_keeps_every_carry(kernel: str, size: int) -> None:
    assert _probe.csum(b"\xff" * size) == kernels.csum(b"\xff" * size)


@pytest.mark.parametrize("table", [False, True])
def test_crc32c_published_check_value(table: bool) -> None:
    assert _probe.crc32c(b"123456789", table=table) == 0xE3069283


@pytest.mark.parametrize("table", [False, True])
def test_crc32c_sizes(table: bool) -> None:
    for size in range(100):
        data = PATTERN[size : 2 * size]
        assert _probe.crc32c(data, table=table) == kernels.crc32c(data)


def test_toeplitz_published_check_vectors(hash_way: str) -> None:
    addresses = bytes([66, 9, 149, 187, 161, 142, 100, 80])
    ports = (2794).to_bytes(2, "big") + (1766).to_bytes(2, "big")
    assert _probe.toeplitz(RSS_KEY, addresses) == 0x323E8FC2
    assert _probe.toeplitz(RSS_KEY, addresses, ports) == 0x51CCC178


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.binary(min_size=52, max_size=52), data=st.binary(min_size=36, max_size=36))
def test_toeplitz_agrees_with_the_definition(key: bytes, data: bytes) -> None:
    expected = {
        (8, False): kernels.toeplitz(key, data[:8]),
        (8, True): kernels.toeplitz(key, data[:8] + data[32:]),
        (32, False): kernels.toeplitz(key, data[:32]),
        (32, True): kernels.toeplitz(key, data),
    }
    for way in [way for way in _probe.HASHES if _probe.use_hash(way)]:
        for (size, with_ports), value in expected.items():
            got = _probe.toeplitz(key, data[:size], data[32:] if with_ports else None)
            assert got == value, (way, size, with_ports)


def alike(flow: bytes) -> bytes:
    """What a symmetric hash is taken of: the XOR of both addresses, and of both ports, twice."""
    address = bytes(a ^ b for a, b in zip(flow[:4], flow[4:8], strict=True))
    port = bytes(a ^ b for a, b in zip(flow[8:10], flow[10:], strict=True))
    return address * 2 + port * 2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    key=st.binary(min_size=52, max_size=52),
    flows=st.lists(st.binary(min_size=12, max_size=12), max_size=32),
    symmetric=st.booleans(),
)
def test_toeplitz_of_a_burst_agrees_with_the_definition(
    key: bytes, flows: list[bytes], symmetric: bool
) -> None:
    expected = [kernels.toeplitz(key, alike(flow) if symmetric else flow) for flow in flows]
    for way in [way for way in _probe.HASHES if _probe.use_hash(way)]:
        assert _probe.toeplitz_burst(key, b"".join(flows), symmetric) == expected, way
