"""A TFTP server for reading: RFC 1350 with the options `blksize` and `tsize` (RFC 2347 to 2349)."""

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

PORT = 69
RRQ, DATA, ACK, ERROR, OACK = 1, 3, 4, 5, 6
NOT_FOUND = 1
BLOCK, LEAST_BLOCK, MOST_BLOCK = 512, 8, 65464
TRIES, TIMEOUT_S = 10, 1.0

Sent = Callable[[str, int], None]
"""Called with a file's name and size when all of it has been acknowledged."""


def serve(address: str, files: Mapping[str, Path], sent: Sent) -> None:
    """Answer requests at an address for ever, each transfer in a thread of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        while True:
            data, client = sock.recvfrom(2048)
            words = data[2:].split(b"\0")
            if len(words) < 3 or data[:2] != struct.pack("!H", RRQ):
                continue
            name = words[0].decode(errors="replace").lstrip("/")
            options = dict(zip((w.lower() for w in words[2:-1:2]), words[3:-1:2], strict=False))
            transfer = _Transfer(address, client, files.get(name), options)
            threading.Thread(target=transfer.run, args=(name, sent), daemon=True).start()


class _Transfer:
    def __init__(
        self,
        address: str,
        client: tuple[str, int],
        path: Path | None,
        options: Mapping[bytes, bytes],
    ) -> None:
        self._address, self._client, self._path, self._options = address, client, path, options

    def run(self, name: str, sent: Sent) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as self._sock:
            self._sock.bind((self._address, 0))
            self._sock.connect(self._client)
            self._sock.settimeout(TIMEOUT_S)
            if self._path is None:
                self._sock.send(struct.pack("!HH", ERROR, NOT_FOUND) + b"not here\0")
            elif self._send(data := self._path.read_bytes()):
                sent(name, len(data))

    def _send(self, data: bytes) -> bool:
        """All of it; False when the client does not go on."""
        size = BLOCK
        agreed = b""
        if wanted := self._options.get(b"blksize", b""):
            size = min(max(int(wanted), LEAST_BLOCK), MOST_BLOCK)
            agreed += b"blksize\0%d\0" % size
        if b"tsize" in self._options:
            agreed += b"tsize\0%d\0" % len(data)
        if agreed and not self._acknowledged(struct.pack("!H", OACK) + agreed, 0):
            return False
        # The last block is shorter than the others, if need be empty.
        for number, at in enumerate(range(0, len(data) + 1, size), 1):
            block = struct.pack("!HH", DATA, number & 0xFFFF) + data[at : at + size]
            if not self._acknowledged(block, number & 0xFFFF):
                return False
        return True

    def _acknowledged(self, packet: bytes, number: int) -> bool:
        wanted = struct.pack("!HH", ACK, number)
        for _ in range(TRIES):
            self._sock.send(packet)
            try:
                while (answer := self._sock.recv(2048))[:4] != wanted:
                    if answer[:2] == struct.pack("!H", ERROR):
                        return False
            except (TimeoutError, ConnectionRefusedError):
                continue
            return True
        return False
