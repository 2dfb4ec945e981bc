"""Bytes and descriptors over a UNIX socket: what recvmsg and sendmsg leave to their caller."""

import array
import os
import socket
from collections.abc import Iterable, Sequence

from emuiavf.vfio_user import wire

ANCILLARY_SIZE = socket.CMSG_SPACE(wire.MAX_RECEIVED_FDS * 4)
# Plain integers: the enum of the socket module costs more than the call.
RECV_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
CTRUNC = int(socket.MSG_CTRUNC)
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def received_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg returned; they are the caller's."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def send_once(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int]) -> int:
    """One sendmsg that does not block; bytes sent, 0 when the peer does not read just now."""
    try:
        if not fds:
            return sock.send(data, _SEND_FLAGS)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        return sock.sendmsg([data], [rights], _SEND_FLAGS)
    except BlockingIOError:
        return 0


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors one after the other."""
    for fd in fds:
        os.close(fd)
