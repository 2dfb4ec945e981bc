"""The `wire` decorator: declared once, checked at import, judged before use."""

from dataclasses import FrozenInstanceError
from typing import Annotated

import pytest

from emuiavf.errors import PeerError
from emuiavf.layout import S32, U8, U16, U32, U64, Mac, Wire, wire


@wire(size=32)
class Sample(Wire):
    """Every width, and padding behind a field."""

    small: Annotated[int, "B3x"]
    signed: S32
    large: U64
    mac: Mac
    word: U16
    tail: U32
    last: Annotated[int, "B3x"]


@wire(size=2)
class Pair(Wire):
    first: U8
    second: U8


SAMPLE = Sample(1, -2, 3, b"\x52\x54\x00\x12\x34\x56", 0x0102, 0x03040506, 7)
BYTES = bytes.fromhex("01000000 feffffff 0300000000000000 525400123456 0201 06050403 07000000")


def test_encode_is_little_endian_packed_and_padded_with_zero() -> None:
    assert SAMPLE.encode() == BYTES
    assert Sample.SIZE == 32


def test_decode_ignores_padding_and_gives_the_fields_back() -> None:
    assert Sample.decode(BYTES[:1] + b"\xff\xff\xff" + BYTES[4:]) == SAMPLE


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_decode_takes_any_buffer(kind: type) -> None:
    assert Sample.decode(kind(BYTES)) == SAMPLE


@pytest.mark.parametrize("length", range(32))
def test_decode_of_too_few_bytes_is_refused(length: int) -> None:
    with pytest.raises(PeerError, match=f"{length} bytes, needs 32"):
        Sample.decode(BYTES[:length])


@pytest.mark.parametrize("offset", [-1, 1, 33])
def test_decode_outside_the_buffer_is_refused(offset: int) -> None:
    with pytest.raises(PeerError):
        Sample.decode(BYTES, offset)


def test_decode_list_reads_one_behind_the_other() -> None:
    assert Pair.decode_list(b"\x09\x01\x02\x03\x04\x05", 1, 2) == (Pair(1, 2), Pair(3, 4))
    assert Pair.decode_list(b"", 0, 0) == ()


@pytest.mark.parametrize(("offset", "count"), [(0, 3), (1, 2), (-1, 1), (0, -1), (0, 1 << 62)])
def test_decode_list_that_is_not_all_there_is_refused(offset: int, count: int) -> None:
    with pytest.raises(PeerError):
        Pair.decode_list(b"\x01\x02\x03\x04", offset, count)


def test_structure_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Pair(1, 2).first = 3  # type: ignore[misc]


def test_wrong_size_is_found_when_the_class_is_made() -> None:
    with pytest.raises(AssertionError, match="2 bytes declared, 3 specified"):

        @wire(size=3)
        class Wrong(Wire):
            only: U16
