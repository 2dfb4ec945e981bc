"""Listens for the clients of one device and serves them one after the other.

Knows sockets, files and the loop; the protocol is the Session's.
"""

import logging
import os
import socket
import stat

from emuiavf.errors import ConfigError
from emuiavf.loop import Loop, Timer
from emuiavf.vfio_user.connection import Connection
from emuiavf.vfio_user.session import DeviceOps, Session
from emuiavf.vfio_user.socket_file import SocketFile

_log = logging.getLogger(__name__)

# After accept failed for want of a resource: how soon to look again.
_RETRY_S = 0.1
# What clients that connect and fail in a loop may log.
_LOG_LINES = 10
_LOG_WINDOW_S = 10.0


class Server:
    """One device behind one listening socket, from construction until `close`.

    `where` is a socket path (created here, removed by `close`) or the number of an open socket:
    a listening one, or one that is already connected to the only client.  The server owns it.
    """

    def __init__(
        self, loop: Loop, ops: DeviceOps, where: str | os.PathLike[str] | int, name: str = ""
    ) -> None:
        """ConfigError when the path is held by a live process or cannot be used."""
        self._loop = loop
        self._ops = ops
        self.name = name or str(where)
        self._file: SocketFile | None = None
        self._listener: socket.socket | None = None
        self._connection: Connection | None = None
        self._retry: Timer | None = None
        self._closed = False
        self._log_window = 0.0
        self._log_lines = 0
        if isinstance(where, int):
            self._adopt(where)
        else:
            self._file = SocketFile(where)
            try:
                self._listener = self._file.listen()
            except ConfigError:
                self._file.release()
                raise
            self._wait_for_client()

    @property
    def connected(self) -> bool:
        """Whether a client is being served."""
        return self._connection is not None

    def close(self) -> None:
        """Send the client away, stop listening, remove the socket file.  Idempotent."""
        self._closed = True
        if self._connection is not None:
            self._connection.close("server closed")
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._file is not None:
            self._file.release()

    def _adopt(self, fd: int) -> None:
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise ConfigError(f"{self.name}: descriptor {fd} is not a socket")
        except OSError as fault:
            raise ConfigError(f"{self.name}: descriptor {fd}: {fault.strerror}") from None
        sock = socket.socket(fileno=fd)
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            sock.detach()
            raise ConfigError(f"{self.name}: descriptor {fd} is not a UNIX stream socket")
        os.set_inheritable(fd, False)
        sock.setblocking(False)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._listener = sock
            self._wait_for_client()
        else:
            self._serve(sock)

    def _wait_for_client(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._on_connect)

    def _on_connect(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as fault:
            # Out of descriptors, most likely: the listener stays readable, so look away a while.
            self._report(logging.WARNING, f"cannot accept a client: {fault.strerror}")
            self._loop.remove(self._listener.fileno())
            self._retry = self._loop.call_later(_RETRY_S, self._wait_for_client)
            return
        # The next client waits in the listener's queue until this one has left.
        self._loop.remove(self._listener.fileno())
        sock.setblocking(False)
        self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        self._report(logging.INFO, "client connected")
        session = Session(self._ops)
        self._connection = Connection(
            self._loop, sock, session, self._on_client_gone, self._on_refused
        )

    def _on_client_gone(self, reason: str) -> None:
        self._connection = None
        self._report(logging.INFO, reason)
        if not self._closed:
            self._wait_for_client()

    def _on_refused(self, reason: str) -> None:
        self._report(logging.WARNING, reason)

    def _report(self, level: int, text: str) -> None:
        """Log, but let no client fill the log."""
        now = self._loop.now()
        if now >= self._log_window:
            self._log_window = now + _LOG_WINDOW_S
            self._log_lines = 0
        self._log_lines += 1
        if self._log_lines <= _LOG_LINES:
            _log.log(level, "%s: %s", self.name, text)
