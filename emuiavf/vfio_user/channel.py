"""The client's transport: requests out, answers in, pipelined; knows no command's meaning.

One thread at a time.  Ids are unique among the requests at hand, and answers are told apart by
them alone, so that a late one hurts nobody.
"""

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from emuiavf.errors import EmuIavfError
from emuiavf.vfio_user import wire
from emuiavf.vfio_user.codec import Codec, Message, encode, encode_error
from emuiavf.vfio_user.fd_socket import ANCILLARY_SIZE, CTRUNC, RECV_FLAGS, received_fds, send_once

_TIMEVAL = struct.Struct("@ll")


class Refused(EmuIavfError):
    """The server answered with an error; `errno` says which."""

    def __init__(self, command: int, errno: int) -> None:
        super().__init__(f"{wire.command_name(command)}: {os.strerror(errno)}")
        self.command = command
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer; its fds belong to the receiver."""

    payload: bytes
    fds: tuple[int, ...] = ()


class Pending:
    """A request whose answer is still to come."""

    __slots__ = ("_channel", "command", "msg_id")

    def __init__(self, channel: "Channel", msg_id: int, command: int) -> None:
        self._channel = channel
        self.msg_id = msg_id
        self.command = command

    def wait(self) -> Answer:
        """The answer, once.  Refused for an error reply, TimeoutError, ConnectionError."""
        message = self._channel._wait_for(self.msg_id)
        if message.flags & wire.ERROR:
            message.close()
            raise Refused(self.command, message.error)
        return Answer(message.payload, tuple(message.take_fds()))


class Channel:
    """One connection, seen from the end that sends commands."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        """`sock` belongs to the channel; `timeout_s` bounds the wait for each answer."""
        self._sock = sock
        self._timeout_s = timeout_s
        self._codec = Codec()
        self._next_id = 0
        # Every id in use with its answer, once that is there; ids nobody waits for any more.
        self._answers: dict[int, Message | None] = {}
        self._abandoned: set[int] = set()
        # A timeout kept by the kernel costs no poll() before each read, as Python's would.
        sock.settimeout(None)
        seconds = int(timeout_s)
        micros = max(int((timeout_s - seconds) * 1e6), 0 if seconds else 1)
        timeval = _TIMEVAL.pack(seconds, micros)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, and close the fds of answers that nobody fetched.  Idempotent."""
        self._sock.close()
        self._codec.close()
        for message in self._answers.values():
            if message is not None:
                message.close()
        self._answers.clear()

    def fileno(self) -> int:
        """The socket, to wait for the end of the connection or for answers."""
        return self._sock.fileno()

    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Answer:
        """Send one command and wait for its answer; the fds stay the caller's."""
        return self.submit(command, payload, fds).wait()

    def submit(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Pending:
        """Send one command without waiting; they are executed in order."""
        msg_id = self._take_id()
        self._answers[msg_id] = None
        try:
            self._transmit(encode(msg_id, command, wire.TYPE_COMMAND, payload), fds)
        except BaseException:
            del self._answers[msg_id]
            raise
        return Pending(self, msg_id, command)

    def post(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send one command that is never answered, not even when it fails."""
        self._transmit(encode(self._take_id(), command, wire.NO_REPLY, payload), fds)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are, for those who test servers."""
        self._transmit(data, fds)

    def receive(self) -> Message:
        """The next message from the server, whatever it is; the counterpart of `send_raw`."""
        return self._receive(time.monotonic() + self._timeout_s)

    def _take_id(self) -> int:
        for _ in range(0x10000):
            msg_id = self._next_id
            self._next_id = (msg_id + 1) & 0xFFFF
            if msg_id not in self._answers and msg_id not in self._abandoned:
                return msg_id
        raise EmuIavfError("all 65536 message ids are in use")

    def _transmit(self, data: bytes, fds: Sequence[int]) -> None:
        """Send all of it, taking in answers while the server does not read."""
        sent = send_once(self._sock, data, fds)
        if sent == len(data):
            return
        deadline = time.monotonic() + self._timeout_s
        rest = memoryview(data)
        while True:
            if sent:
                # Descriptors went with the first byte.
                rest, fds = rest[sent:], ()
            if not rest:
                return
            self._wait_to_send(deadline)
            sent = send_once(self._sock, rest, fds)

    def _wait_to_send(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        left_s = deadline - time.monotonic()
        events = poll.poll(left_s * 1000) if left_s > 0 else []
        if not events:
            raise TimeoutError("the server does not read")
        if events[0][1] & select.POLLIN:
            self._keep(self._receive(deadline))

    def _wait_for(self, msg_id: int) -> Message:
        message = self._answers[msg_id]
        deadline = time.monotonic() + self._timeout_s
        try:
            while message is None:
                received = self._receive(deadline)
                if received.msg_id == msg_id and received.flags & wire.TYPE_MASK:
                    message = received
                else:
                    self._keep(received)
        except TimeoutError:
            self._abandoned.add(msg_id)
            raise
        finally:
            del self._answers[msg_id]
        return message

    def _keep(self, message: Message) -> None:
        """Put an answer aside for the one who waits for it."""
        if message.flags & wire.TYPE_MASK == wire.TYPE_COMMAND:
            self._refuse(message)
        elif message.msg_id in self._answers and self._answers[message.msg_id] is None:
            self._answers[message.msg_id] = message
        else:
            self._abandoned.discard(message.msg_id)
            message.close()

    def _refuse(self, message: Message) -> None:
        """DMA_READ or DMA_WRITE from the server: memory is reached by its fd, or not at all."""
        message.close()
        if message.flags & wire.NO_REPLY:
            return
        with contextlib.suppress(OSError):
            send_once(self._sock, encode_error(message.msg_id, message.command, 0), ())

    def _receive(self, deadline: float) -> Message:
        codec = self._codec
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    codec.wanted, ANCILLARY_SIZE, RECV_FLAGS
                )
            except BlockingIOError:
                raise TimeoutError(f"no answer within {self._timeout_s} s") from None
            fds = received_fds(ancillary) if ancillary else ()
            if not data:
                raise ConnectionResetError("the server closed the connection")
            message = codec.feed(data, fds, bool(flags & CTRUNC))
            if message is not None:
                return message
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {self._timeout_s} s")


def connect(path: str | os.PathLike[str], timeout_s: float) -> socket.socket:
    """A connected UNIX socket; OSError when nobody listens, TimeoutError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock
