"""vfio-user framing without a socket: bytes and fds in, Messages out.

Knows the 16-byte header and the size limit; knows no command's meaning.  Both ends use it.
Specification: vfio-user, "Header".
"""

import errno
import os
from collections.abc import Sequence

from emuiavf.errors import PeerError
from emuiavf.vfio_user import wire

HEADER_SIZE = wire.Header.SIZE
# A peer that sends a large message byte by byte must not make every read allocate all of it.
_MAX_READ = 65536


class FramingError(PeerError):
    """A header that cannot be right; where the next message starts is no longer known."""

    def __init__(self, message: str, header: wire.Header) -> None:
        super().__init__(message)
        self.header = header


class Message:
    """One whole message; `fds` belong to it until `take_fds`, `close` closes what is left."""

    __slots__ = ("command", "error", "fds", "flags", "msg_id", "payload", "truncated")

    def __init__(self, msg_id: int, command: int, flags: int, error: int) -> None:
        self.msg_id = msg_id
        self.command = command
        self.flags = flags
        self.error = error
        self.payload = b""
        self.fds: list[int] = []
        # The kernel could not deliver all fds of this message (MSG_CTRUNC).
        self.truncated = False

    def take_fds(self) -> list[int]:
        """Hand all fds over to the caller, who closes them from now on."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Close the fds that nobody took."""
        for fd in self.take_fds():
            os.close(fd)


def encode(msg_id: int, command: int, flags: int, payload: bytes = b"", error: int = 0) -> bytes:
    """A whole message, to be sent in one piece."""
    size = HEADER_SIZE + len(payload)
    return wire.HEADER.pack(msg_id, command, size, flags, error) + payload


def encode_error(msg_id: int, command: int, error: int) -> bytes:
    """An error reply: the header only, with an errno that is never 0 (0 reads as success)."""
    return encode(msg_id, command, wire.TYPE_REPLY | wire.ERROR, error=error or errno.EINVAL)


class Codec:
    """The receiving half of one connection."""

    __slots__ = ("_data", "_fds", "_message", "_size", "_truncated", "wanted")

    def __init__(self) -> None:
        # How many bytes to read next: never past the current message.  A longer read may also
        # return the start of the next message, and the kernel then delivers that message's fds
        # together with this one's bytes.
        self.wanted = HEADER_SIZE
        self._size = HEADER_SIZE
        self._data = bytearray()
        self._message: Message | None = None
        self._fds: list[int] = []
        self._truncated = False

    @property
    def in_header(self) -> bool:
        """Whether fds may still arrive: they travel with the header only."""
        return self._message is None

    def feed(self, data: bytes, fds: Sequence[int] = (), truncated: bool = False) -> Message | None:
        """Take what was read, at most `wanted` bytes; return the Message it completes, if any.

        The fds are the codec's from now on, also on error.  FramingError when the header cannot
        be right: the connection is then lost.
        """
        assert len(data) <= self.wanted
        if fds or truncated:
            self._take_fds(fds, truncated)
        have = len(self._data) + len(data)
        if have < self._size:
            self._data += data
            self.wanted = min(self._size - have, _MAX_READ)
            return None
        if self._data:
            data = bytes(self._data + data)
            self._data.clear()
        message = self._message
        if message is not None:
            message.payload = data
            self._message = None
            self._size = self.wanted = HEADER_SIZE
            return message
        return self._begin(data)

    def close(self) -> None:
        """Close the fds of a message that never became whole."""
        if self._message is not None:
            self._message.close()
            self._message = None
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _begin(self, data: bytes) -> Message | None:
        msg_id, command, size, flags, error = wire.HEADER.unpack(data)
        if not HEADER_SIZE <= size <= wire.MAX_MSG_SIZE:
            header = wire.Header(msg_id, command, size, flags, error)
            raise FramingError(f"message size {size}, at most {wire.MAX_MSG_SIZE}", header)
        message = Message(msg_id, command, flags, error)
        if self._fds or self._truncated:
            message.fds, self._fds = self._fds, []
            message.truncated, self._truncated = self._truncated, False
        if size == HEADER_SIZE:
            return message
        self._message = message
        self._size = size - HEADER_SIZE
        self.wanted = min(self._size, _MAX_READ)
        return None

    def _take_fds(self, fds: Sequence[int], truncated: bool) -> None:
        """Keep the fds of a header; those of payload bytes, or too many, are closed."""
        room = wire.MAX_RECEIVED_FDS - len(self._fds) if self._message is None else 0
        self._fds.extend(fds[:room])
        for fd in fds[room:]:
            os.close(fd)
        if self._message is None and (truncated or len(fds) > room):
            self._truncated = True
