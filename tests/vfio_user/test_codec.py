"""Framing: every split, every wrong size, and every descriptor accounted for."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emuiavf.vfio_user.codec import Codec, FramingError, Message, encode, encode_error

READ = bytes.fromhex("50000900200000000000000000000000 00000000000000000700000004000000")
RESET = bytes.fromhex("51000d00100000000000000000000000")


def fields(message: Message | None) -> tuple[int, int, int, int, bytes]:
    assert message is not None
    return message.msg_id, message.command, message.flags, message.error, message.payload


@pytest.fixture
def codec() -> Codec:
    return Codec()


def pipe_fds() -> list[int]:
    return list(os.pipe())


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("at", range(1, 32))
def test_message_split_anywhere_is_whole_at_its_last_byte(codec: Codec, at: int) -> None:
    stream, messages = READ, []
    cuts = sorted({at, 16, 32})
    for start, end in zip([0, *cuts], cuts, strict=False):
        messages.append(codec.feed(stream[start:end]))
    assert messages[:-1] == [None] * (len(messages) - 1)
    assert fields(messages[-1]) == (0x50, 9, 0, 0, READ[16:])


def test_message_byte_by_byte_never_wants_past_its_end(codec: Codec) -> None:
    wanted = []
    for byte in READ:
        wanted.append(codec.wanted)
        message = codec.feed(bytes([byte]))
    assert wanted == [*range(16, 0, -1), *range(16, 0, -1)]
    assert fields(message)[4] == READ[16:]
    assert codec.wanted == 16


def test_header_only_message_is_whole_at_once(codec: Codec) -> None:
    assert fields(codec.feed(RESET)) == (0x51, 13, 0, 0, b"")


def test_messages_follow_each_other(codec: Codec) -> None:
    assert codec.feed(READ[:16]) is None
    assert fields(codec.feed(READ[16:]))[0] == 0x50
    assert fields(codec.feed(RESET))[0] == 0x51


@pytest.mark.parametrize("size", [0, 1, 15, 0x100021, 0xFFFFFFFF])
def test_size_out_of_range_is_a_framing_error(codec: Codec, size: int) -> None:
    header = RESET[:4] + size.to_bytes(4, "little") + RESET[8:]
    with pytest.raises(FramingError, match=str(size)) as info:
        codec.feed(header)
    assert info.value.header.msg_id == 0x51


def test_largest_message_is_taken_in_bounded_reads(codec: Codec) -> None:
    header = RESET[:4] + (0x100020).to_bytes(4, "little") + RESET[8:]
    assert codec.feed(header) is None
    left = 0x100010
    while left:
        assert codec.wanted == min(left, 65536)
        left -= codec.wanted
        message = codec.feed(bytes(codec.wanted))
    assert len(fields(message)[4]) == 0x100010


def test_fds_of_a_split_header_belong_to_its_message(codec: Codec) -> None:
    fds = pipe_fds()
    codec.feed(READ[:5], fds[:1])
    codec.feed(READ[5:16], fds[1:])
    message = codec.feed(READ[16:])
    assert message is not None
    assert message.take_fds() == fds
    assert message.fds == []
    message.fds = fds
    message.close()
    assert not is_open(fds[0])


def test_fds_with_payload_bytes_are_closed(codec: Codec) -> None:
    fds = pipe_fds()
    codec.feed(READ[:16])
    message = codec.feed(READ[16:], fds)
    assert message is not None
    assert message.fds == []
    assert not is_open(fds[0])
    assert not message.truncated


def test_more_fds_than_a_message_can_have_are_closed_and_told(codec: Codec) -> None:
    fds = [os.dup(0) for _ in range(254)]
    codec.feed(RESET[:8], fds[:200])
    message = codec.feed(RESET[8:], fds[200:])
    assert message is not None
    assert len(message.fds) == 253
    assert message.truncated
    message.close()


def test_truncated_fds_are_told_once(codec: Codec) -> None:
    first, second = codec.feed(RESET, (), True), codec.feed(RESET)
    assert first is not None
    assert second is not None
    assert (first.truncated, second.truncated) == (True, False)


@pytest.mark.parametrize("at", [4, 16, 20])
def test_close_in_the_middle_of_a_message_closes_its_fds(codec: Codec, at: int) -> None:
    fds = pipe_fds()
    codec.feed(READ[: min(at, 16)], fds)
    codec.feed(READ[16:at])
    codec.close()
    assert not any(is_open(fd) for fd in fds)


def test_encode_writes_header_and_payload() -> None:
    assert encode(0x50, 9, 0, READ[16:]) == READ


@pytest.mark.parametrize(("errno", "sent"), [(2, 2), (0, 22)])
def test_encode_error_is_a_header_with_an_errno_never_zero(errno: int, sent: int) -> None:
    expected = bytes.fromhex("53000500100000002100000000000000")
    assert encode_error(0x53, 5, errno) == expected[:12] + sent.to_bytes(4, "little")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=8), st.data())
def test_any_stream_comes_out_as_it_went_in(payloads: list[bytes], data: st.DataObject) -> None:
    codec = Codec()
    stream = b"".join(encode(i, 9, 0, payload) for i, payload in enumerate(payloads))
    received = []
    while stream:
        size = data.draw(st.integers(1, codec.wanted))
        message = codec.feed(stream[:size])
        stream = stream[size:]
        received += [message.payload] if message else []
    assert received == payloads
