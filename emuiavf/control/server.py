"""The control socket: lines of JSON in, lines of JSON out, served by the control loop.

Whoever may open the socket decides about the VFs: its mode is 0600.  Even so nothing that comes
over it costs more than its bounds: requests of MAX_REQUEST bytes, MAX_CLIENTS connections, one
request of each in a turn, and none while an answer waits to be read.
"""

import logging
import os
import socket
from collections.abc import Callable

from emuiavf.control.rpc import INVALID_REQUEST, MAX_REQUEST, error_line
from emuiavf.errors import ConfigError
from emuiavf.loop import Loop, Timer
from emuiavf.vfio_user.socket_file import SocketFile

_log = logging.getLogger(__name__)

MAX_CLIENTS = 16
MODE = 0o600
_CHUNK = 1 << 14
_RETRY_S = 0.1
# Clients that wait; of more the calls block.
_BACKLOG = 64

Respond = Callable[[bytes], bytes]


class _Client:
    """One connection: what it has sent and not been served, what it has not read."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        respond: Respond,
        on_gone: Callable[["_Client"], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._respond = respond
        self._on_gone = on_gone
        self._in = bytearray()
        self._out = b""
        self._ended = False
        self._closing = False
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._on_readable)

    def close(self) -> None:
        self._loop.remove(self._socket.fileno())
        self._socket.close()

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        self._ended = not data
        self._in += data
        self._serve()

    def _serve(self) -> None:
        """Answer one request, if one is there; look at the next when that is written."""
        line, newline, rest = self._in.partition(b"\n")
        if not newline and self._ended:
            # The last request of who has closed his end may lack its newline.
            line, rest = self._in, bytearray()
        elif not newline:
            if len(self._in) > MAX_REQUEST:
                self._refuse()
            return
        if len(line) > MAX_REQUEST:
            self._refuse()
            return
        self._in = bytearray(rest)
        answer = self._respond(bytes(line)) if line.strip() else b""
        if answer:
            self._out = answer + b"\n"
        self._write()

    def _refuse(self) -> None:
        """What follows cannot be told from what came: the connection ends behind the answer."""
        self._in.clear()
        self._closing = True
        text = f"a request of more than {MAX_REQUEST} bytes"
        self._out = error_line(INVALID_REQUEST, text) + b"\n"
        self._write()

    def _write(self) -> None:
        fd = self._socket.fileno()
        if self._out:
            try:
                sent = self._socket.send(self._out, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._leave()
                return
            self._out = self._out[sent:]
        if self._out:
            # Nothing more is read before this is.
            self._loop.remove_reader(fd)
            self._loop.add_writer(fd, self._write)
            return
        self._loop.remove_writer(fd)
        if self._closing or (self._ended and not self._in):
            self._leave()
        elif b"\n" in self._in or self._ended:
            # Others first.
            self._loop.remove_reader(fd)
            self._loop.add_writer(fd, self._go_on)
        else:
            self._loop.add_reader(fd, self._on_readable)

    def _go_on(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._serve()

    def _leave(self) -> None:
        self.close()
        self._on_gone(self)


class ControlServer:
    """Serves `respond` at `path`, from construction until `close`."""

    def __init__(self, loop: Loop, path: str | os.PathLike[str], respond: Respond) -> None:
        """ConfigError when the path is held by a live process or cannot be used."""
        self._loop = loop
        self._respond = respond
        self._clients: set[_Client] = set()
        self._retry: Timer | None = None
        self._file = SocketFile(path)
        self.path = self._file.path
        try:
            self._listener = self._file.listen(MODE)
        except ConfigError:
            self._file.release()
            raise
        self._listener.listen(_BACKLOG)
        self._wait_for_client()

    def close(self) -> None:
        """Send everybody away and remove the socket file.  Idempotent."""
        if self._listener.fileno() < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove(self._listener.fileno())
        self._listener.close()
        while self._clients:
            self._clients.pop().close()
        self._file.release()

    def _on_connect(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as fault:
            # Out of descriptors, most likely: the listener stays readable, so look away a while.
            _log.warning("control: cannot accept a client: %s", fault.strerror)
            self._loop.remove(self._listener.fileno())
            self._retry = self._loop.call_later(_RETRY_S, self._wait_for_client)
            return
        self._clients.add(_Client(self._loop, sock, self._respond, self._on_gone))
        if len(self._clients) == MAX_CLIENTS:
            # The next ones wait in the listener's queue.
            self._loop.remove(self._listener.fileno())

    def _on_gone(self, client: _Client) -> None:
        self._clients.discard(client)
        self._wait_for_client()

    def _wait_for_client(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._on_connect)
