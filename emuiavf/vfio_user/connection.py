"""One connected client: moves bytes and fds between a socket and a Session.

Never blocks.  Every message leaves in one sendmsg: QEMU gives up on a header that arrives in two
parts.  What a client does not read is kept, up to a limit; beyond it nothing more is read from
that client until it has caught up, so a client can stop only itself.
"""

import os
import socket
from collections import deque
from collections.abc import Callable

from emuiavf.loop import Loop
from emuiavf.vfio_user import wire
from emuiavf.vfio_user.codec import Codec, FramingError, Message
from emuiavf.vfio_user.fd_socket import (
    ANCILLARY_SIZE,
    CTRUNC,
    RECV_FLAGS,
    close_fds,
    received_fds,
    send_once,
)
from emuiavf.vfio_user.session import Reply, Session

_RECV_FLAGS = RECV_FLAGS | int(socket.MSG_DONTWAIT)
# Two of the largest replies; a client that pipelines small ones never gets there.
_BACKLOG_LIMIT = 2 * wire.MAX_MSG_SIZE


class Connection:
    """Serves `session` on `sock` until either side ends it; then calls `on_closed` once."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        session: Session,
        on_closed: Callable[[str], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """`on_refused` gets the reason of each refused command: a client may cause many."""
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._session = session
        self._on_closed = on_closed
        self._on_refused = on_refused
        self._codec = Codec()
        self._backlog: deque[tuple[memoryview, list[int]]] = deque()
        self._backlog_size = 0
        self._closed = False
        loop.add_reader(self._fd, self._on_readable)

    def close(self, reason: str) -> None:
        """End it from our side; the device learns that its client is gone.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._fd)
        self._sock.close()
        self._codec.close()
        for _, fds in self._backlog:
            close_fds(fds)
        self._backlog.clear()
        self._session.close()
        self._on_closed(reason)

    def _on_readable(self) -> None:
        """Read at most one message and answer it; the loop comes back for the next."""
        try:
            message = self._receive()
        except FramingError as fault:
            self._answer(self._session.refuse_frame(fault))
        except OSError as fault:
            self.close(f"connection lost: {fault.strerror}")
        else:
            if message is not None:
                self._answer(self._session.handle(message))

    def _receive(self) -> Message | None:
        codec = self._codec
        while True:
            fds: list[int] = []
            truncated = False
            try:
                if codec.in_header:
                    data, ancillary, flags, _ = self._sock.recvmsg(
                        codec.wanted, ANCILLARY_SIZE, _RECV_FLAGS
                    )
                    if ancillary:
                        fds = received_fds(ancillary)
                    truncated = bool(flags & CTRUNC)
                else:
                    # Without room for fds the kernel closes those sent with payload bytes.
                    data = self._sock.recv(codec.wanted, _RECV_FLAGS)
            except BlockingIOError:
                return None
            if not data:
                close_fds(fds)
                self.close("client left")
                return None
            message = codec.feed(data, fds, truncated)
            if message is not None:
                return message

    def _answer(self, reply: Reply | None) -> None:
        # The device may have closed the server while it handled the message.
        if self._closed:
            return
        if reply is not None:
            try:
                self._send(reply)
            except OSError as fault:
                self.close(f"connection lost: {fault.strerror}")
                return
        if self._session.finished:
            self.close(self._session.last_error)
        elif self._session.last_error:
            self._on_refused(self._session.last_error)
            self._session.last_error = ""

    def _send(self, reply: Reply) -> None:
        sent = 0 if self._backlog else send_once(self._sock, reply.data, reply.fds)
        if sent == len(reply.data):
            return
        # Descriptors went with the first byte; unsent ones must outlive the device's own.
        fds = [] if sent else [os.dup(fd) for fd in reply.fds]
        rest = memoryview(reply.data)[sent:]
        if not self._backlog:
            self._loop.add_writer(self._fd, self._on_writable)
        self._backlog.append((rest, fds))
        self._backlog_size += len(rest)
        if self._backlog_size > _BACKLOG_LIMIT:
            self._loop.remove_reader(self._fd)

    def _on_writable(self) -> None:
        was_full = self._backlog_size > _BACKLOG_LIMIT
        try:
            self._flush()
        except OSError as fault:
            self.close(f"connection lost: {fault.strerror}")
            return
        if was_full and self._backlog_size <= _BACKLOG_LIMIT:
            self._loop.add_reader(self._fd, self._on_readable)
        if not self._backlog:
            self._loop.remove_writer(self._fd)

    def _flush(self) -> None:
        while self._backlog:
            data, fds = self._backlog[0]
            sent = send_once(self._sock, data, fds)
            if sent == 0:
                return
            self._backlog_size -= sent
            if sent == len(data):
                close_fds(fds)
                self._backlog.popleft()
                continue
            close_fds(fds)
            self._backlog[0] = (data[sent:], [])
