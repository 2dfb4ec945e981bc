"""A socket in the place of a TAP's descriptor, and the virtio-net header in front of each frame."""

import socket
import struct

from emuiavf.ports._tap import Tap

NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, UFO, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80


def socket_tap(name: str, max_frame: int = 0, large_udp: bool = True) -> tuple[Tap, socket.socket]:
    """A TAP port and the kernel's end of it."""
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inside.setblocking(False)
    for end in (inside, outside):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    outside.settimeout(5)
    return Tap(name, inside.detach(), name, max_frame, large_udp=large_udp), outside


def header(
    flags: int = 0, gso: int = 0, hdr_len: int = 0, size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("<BBHHHH", flags, gso, hdr_len, size, start, offset)
