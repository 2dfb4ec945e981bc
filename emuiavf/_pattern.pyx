"""Headers of numbered frames; the loops are in _pattern.pxd."""

import struct

from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

STAMPED_SIZE = STAMPED
HEADER_SIZE = 42


def flow_header(src_mac: bytes, dst_mac: bytes, src_ip: bytes, dst_ip: bytes, port: int) -> bytes:
    """Ethernet, IPv4 and UDP header, lengths and IPv4 checksum left 0; UDP without checksum."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0x4000, 64, 17, 0, src_ip, dst_ip)
    return dst_mac + src_mac + b"\x08\x00" + ip + struct.pack(">HHHH", port, 9, 0, 0)


cdef int stream_init(Stream *stream, bytes header, uint16_t number) except -1:
    if len(header) != HEADER_SIZE:
        raise ValueError(f"a header of {len(header)} bytes, not {HEADER_SIZE}")
    template = bytearray(header)
    for at in (STREAM_IP_AT + 2, STREAM_IP_AT + 10, STREAM_IP_AT + 24):
        template[at:at + 2] = bytes(2)
    memset(stream, 0, sizeof(Stream))
    memcpy(stream.header, <const char *>template, HEADER_SIZE)
    words = range(STREAM_IP_AT, STREAM_IP_AT + 20, 2)
    stream.ip_sum = sum(int.from_bytes(template[at:at + 2]) for at in words)
    stream.number = number
    return 0
