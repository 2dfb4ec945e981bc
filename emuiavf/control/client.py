"""The caller's end: finds the process that has a VF, asks, waits for the answer."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from emuiavf.control import place
from emuiavf.control.methods import (
    METHODS,
    Fdb,
    FdbEntry,
    FdbPage,
    Show,
    Switches,
    SwitchState,
    VfState,
    Words,
    is_called,
)
from emuiavf.control.rpc import request
from emuiavf.errors import ConfigError

TIMEOUT_S = 10.0
_MAX_ANSWER = 1 << 24


class _Error(Struct):
    code: int
    message: str


class _Answer(Struct):
    id: int | None = None
    result: Raw | UnsetType = UNSET
    error: _Error | UnsetType = UNSET


class NoServer(ConfigError):
    """Nobody listens there."""


class ControlClient:
    """One connection to a control socket, for one request after the other."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """NoServer when nobody listens at `path`; ConfigError when it cannot be used."""
        self.path = Path(path)
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A socket with a time-out of Python's would not wait where many wait already.
        limit = struct.pack("@ll", int(TIMEOUT_S), 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self._socket.connect(str(path))
            self._socket.settimeout(TIMEOUT_S)
        except (ConnectionRefusedError, FileNotFoundError) as fault:
            self._socket.close()
            raise NoServer(f"{path}: {fault.strerror}") from None
        except OSError as fault:
            self._socket.close()
            raise ConfigError(f"{path}: {fault.strerror or fault}") from None

    def call(self, method: str, params: Words) -> Any:
        """The method's result; ConfigError with what the other end says when it refuses."""
        row = METHODS[method]
        assert isinstance(params, row.params)
        self._number += 1
        try:
            self._socket.sendall(request(method, params, self._number) + b"\n")
            answer = msgspec.json.decode(self._line(), type=_Answer)
        except TimeoutError:
            raise ConfigError(f"{self.path}: no answer within {TIMEOUT_S:g} s") from None
        except (OSError, msgspec.MsgspecError) as fault:
            raise ConfigError(f"{self.path}: {fault}") from None
        if answer.error is not UNSET:
            raise ConfigError(answer.error.message)
        if answer.result is UNSET:
            raise ConfigError(f"{self.path}: an answer without a result")
        return msgspec.json.decode(answer.result, type=row.result)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _line(self) -> bytes:
        data = bytearray()
        while not data.endswith(b"\n"):
            chunk = self._socket.recv(1 << 16)
            if not chunk or len(data) > _MAX_ANSWER:
                raise OSError("the connection was closed")
            data += chunk
        return bytes(data)


def find(vf: str, path: str | None = None) -> ControlClient:
    """A connection to the process that has a VF of that name: at `path`, or the only one of this
    user's.  ConfigError names what there is."""
    if path is not None:
        return ControlClient(path)
    found: list[ControlClient] = []
    names: list[str] = []
    for client in open_all():
        try:
            there = [one.name for one in states(client)]
        except ConfigError:
            # No answer from one of them: another may have it.
            there = []
        names += there
        if any(is_called(name, vf) for name in there):
            found.append(client)
        else:
            client.close()
    if len(found) == 1:
        return found[0]
    for client in found:
        client.close()
    if found:
        places = ", ".join(str(client.path) for client in found)
        raise ConfigError(f"{vf}: several processes have one; say which with --control: {places}")
    raise ConfigError(
        f"{vf}: no running process has such a VF; there are {', '.join(names) or 'none'}"
    )


def open_all() -> list[ControlClient]:
    """A connection to every process of this user that serves VFs."""
    clients = []
    for path in place.sockets():
        try:
            clients.append(ControlClient(path))
        except NoServer:
            # It has died, or is about to begin or to end.
            continue
    return clients


def each(path: str | None) -> Iterator[ControlClient]:
    """A connection to the process at `path`, or one after the other to all of this user's."""
    clients = open_all() if path is None else [ControlClient(path)]
    for client in clients:
        with client:
            yield client


def states(client: ControlClient) -> list[VfState]:
    """All VFs of one process."""
    found: list[VfState] = client.call("show", Show())
    return found


def switches(client: ControlClient) -> list[SwitchState]:
    """All switches of one process."""
    found: list[SwitchState] = client.call("switches", Switches())
    return found


def fdb(client: ControlClient, switch: str) -> Iterator[FdbEntry]:
    """All that a switch knows, asked for as it is needed."""
    start = 0
    while True:
        page: FdbPage = client.call("fdb", Fdb(switch, start))
        yield from page.entries
        if not page.next:
            return
        if page.next <= start:
            raise ConfigError(f"{client.path}: an answer that goes back to {page.next}")
        start = page.next
