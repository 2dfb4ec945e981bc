"""Whatever a client sends: an answer of the right shape or the end, never an exception."""

import json
import os
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emuiavf.vfio_user.codec import Codec, FramingError
from emuiavf.vfio_user.session import Reply, Session
from emuiavf.vfio_user.wire import NO_REPLY, TYPE_MASK
from tests.fakes.pci_function import MSIX_VECTORS, PciFunction
from tests.vfio_user.exchange import HEADER, frame

pytestmark = pytest.mark.slow

MAX_REPLY = 1048608

# Numbers at the edges of what fields mean, and any others.
U32 = st.sampled_from(
    [0, 1, 2, 3, 4, 7, 8, 9, 16, 20, 24, 32, 40, 80, 4096, 1 << 20, (1 << 32) - 1]
)
U32 |= st.integers(0, (1 << 32) - 1)
U64 = st.sampled_from([0, 1, 4095, 4096, 1 << 32, 8 << 40, 1 << 63, (1 << 64) - 1])
U64 |= st.integers(0, (1 << 64) - 1)
TAIL = st.binary(max_size=40)


def packed(layout: str, *fields: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """Payloads with this fixed part, and anything behind it."""
    head = st.tuples(*fields).map(lambda values: struct.pack(layout, *values))
    return st.tuples(head, TAIL).map(b"".join)


# Nearly right, so that the device is reached.
SANE_IRQS = packed(
    "<IIIII",
    st.just(20),
    st.sampled_from([0x21, 0x22, 0x24, 0x09, 0x12]),
    st.sampled_from([0, 2, 3]),
    st.integers(0, 3),
    st.integers(0, 3),
)
PAYLOADS = {
    2: packed("<IIQQQ", U32, U32, U64, U64, U64),
    3: packed("<IIQQ", U32, U32, U64, U64),
    4: packed("<IIII", U32, U32, U32, U32),
    5: packed("<IIIIQQ", U32, U32, st.integers(0, 10), U32, U64, U64),
    6: packed("<IIII", U32, U32, st.integers(0, 10), U32),
    7: packed("<IIII", U32, U32, st.integers(0, 6), U32),
    8: packed("<IIIII", U32, st.integers(0, 0x7F), st.integers(0, 5), U32, U32) | SANE_IRQS,
    9: packed("<QII", U64 | st.integers(0, 4096), st.integers(0, 10), U32),
    10: packed("<QII", U64, st.integers(0, 10), st.integers(0, 48)),
    13: st.just(b""),
}
VERSION_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["capabilities", "max_msg_fds", "migration", "pgsize", "twin_socket", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KNOWN = st.one_of(*[st.tuples(st.just(command), payload) for command, payload in PAYLOADS.items()])
MESSAGE = KNOWN | st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=64))
FLAGS = st.sampled_from([0, 0, 0, 0, NO_REPLY, 1, 2, 0x21, 0xFFFFFFE0])
NUM_FDS = st.sampled_from([0, 0, 0, 1, 2, MSIX_VECTORS])


def make_fds(count: int, eventfd: bool) -> list[int]:
    return [os.eventfd(0) if eventfd else os.memfd_create("fuzz") for _ in range(count)]


def deliver(
    codec: Codec, session: Session, data: bytes, fds: Sequence[int]
) -> tuple[int, Reply | None]:
    """Feed as a socket would; number of messages executed and the last reply."""
    executed, reply = 0, None
    while data and not session.finished:
        part, data = data[: codec.wanted], data[codec.wanted :]
        try:
            message = codec.feed(part, fds)
        except FramingError as fault:
            return executed, session.refuse_frame(fault)
        fds = ()
        if message is not None:
            executed += 1
            reply = session.handle(message)
    for fd in fds:
        os.close(fd)
    return executed, reply


def check_reply(message: bytes, reply: Reply) -> None:
    msg_id, command, _, flags, _ = HEADER.unpack_from(message)
    got_id, got_command, size, got_flags, errno = HEADER.unpack_from(reply.data)
    assert (got_id, got_command, size) == (msg_id, command, len(reply.data))
    assert not flags & NO_REPLY
    assert size <= MAX_REPLY
    assert (got_flags, errno) == (1, 0) or (got_flags == 0x21 and size == 16 and errno > 0)
    assert got_flags == 0x21 or flags & TYPE_MASK == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(MESSAGE, FLAGS, NUM_FDS, st.booleans()), max_size=12))
def test_any_commands_after_version_are_answered_one_by_one(
    script: list[tuple[tuple[int, bytes], int, int, bool]],
) -> None:
    ops = PciFunction()
    codec, session = Codec(), Session(ops)
    deliver(codec, session, frame(1, b"\0\0\0\0"), ())
    for (command, payload), flags, num_fds, eventfd in script:
        message = frame(command, payload, flags)
        executed, reply = deliver(codec, session, message, make_fds(num_fds, eventfd))
        assert executed == 1
        assert not session.finished
        assert (reply is None) == bool(flags & NO_REPLY)
        if reply is not None:
            check_reply(message, reply)
    session.close()
    assert (ops.maps, ops.fds) == ([], {})
    ops.close()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), NUM_FDS, st.booleans())
def test_any_bytes_end_in_an_answer_or_an_open_message(
    data: bytes, num_fds: int, negotiated: bool
) -> None:
    ops = PciFunction()
    codec, session = Codec(), Session(ops)
    if negotiated:
        deliver(codec, session, frame(1, b"\0\0\0\0"), ())
    deliver(codec, session, data, make_fds(num_fds, False))
    codec.close()
    session.close()
    ops.close()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2), st.integers(0, 3), VERSION_JSON | st.binary(max_size=60))
def test_any_version_is_agreed_or_refused(major: int, minor: int, data: object) -> None:
    ops = PciFunction()
    codec, session = Codec(), Session(ops)
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    message = frame(1, struct.pack("<HH", major, minor) + text + b"\0")
    executed, reply = deliver(codec, session, message, ())
    assert executed == 1
    assert reply is not None
    check_reply(message, reply)
    assert session.finished == (len(reply.data) == 16)
    session.close()
    ops.close()
