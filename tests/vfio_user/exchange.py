"""Bytes in, bytes out: a codec and a session without a socket between them."""

import struct
from collections.abc import Sequence

from emuiavf.vfio_user.codec import Codec
from emuiavf.vfio_user.session import Reply, Session
from tests.fakes.pci_function import PciFunction

HEADER = struct.Struct("<HHIII")


def frame(command: int, payload: bytes = b"", flags: int = 0, msg_id: int = 0x5A) -> bytes:
    return HEADER.pack(msg_id, command, 16 + len(payload), flags, 0) + payload


class Exchange:
    """A session that has agreed on a version, unless told otherwise."""

    def __init__(self, ops: PciFunction, negotiated: bool = True) -> None:
        self.session = Session(ops)
        self.codec = Codec()
        if negotiated:
            self.ok(1, struct.pack("<HH", 0, 0))
            ops.calls.clear()

    def send(self, data: bytes, fds: Sequence[int] = (), truncated: bool = False) -> Reply | None:
        """Feed one whole message as a socket would deliver it."""
        message, at = self.codec.feed(data[:16], fds, truncated), 16
        while message is None:
            part = data[at : at + self.codec.wanted]
            assert part
            at += len(part)
            message = self.codec.feed(part)
        return self.session.handle(message)

    def ok(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Payload of the reply, whose header must say success."""
        reply = self.send(frame(command, payload), fds)
        assert reply is not None
        assert reply.data[:16] == HEADER.pack(0x5A, command, len(reply.data), 1, 0)
        return reply.data[16:]

    def errno(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """errno of the reply, which must be an error and nothing but a header."""
        reply = self.send(frame(command, payload), fds)
        assert reply is not None
        assert reply.fds == ()
        *head, errno = HEADER.unpack(reply.data)
        assert head == [0x5A, command, 16, 0x21]
        return int(errno)
