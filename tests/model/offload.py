"""Slow, obvious forms of datapath/_offload: what a frame is, and how it is cut into segments.

Written from the RFCs and the table of packet types, and shares nothing with the product.
"""

import sys
from dataclasses import dataclass

from tests.model.kernels import csum, toeplitz

TPIDS = (0x8100, 0x88A8, 0x9100)
NON_IP = {0x0806: 11, 0x88CC: 6, 0x88F7: 2}
TCP, SCTP, UDP = 6, 132, 17
HEADER = {TCP: 20, SCTP: 12, UDP: 8}
FIELD = {TCP: 16, SCTP: 8, UDP: 6}
KIND = {UDP: 2, TCP: 4, SCTP: 5}
HENA = {0: 36, 1: 35, 2: 31, 4: 33, 5: 34, 6: 35}


def be16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


@dataclass
class Known:
    """What can be said of a frame from the bytes of its head."""

    ptype: int = 1
    version: int = 0
    l2: int = 14
    l3: int = 0
    protocol: int = 0  # TCP, SCTP, UDP, or 0
    fragment: bool = False
    ip_bad: bool = False
    tci: int | None = None  # of the outermost tag


def ipv4(head: bytes, known: Known) -> Known:
    ip = head[known.l2 :]
    if len(ip) < 20 or ip[0] >> 4 != 4 or (ip[0] & 15) < 5 or len(ip) < (ip[0] & 15) * 4:
        return known
    known.version, known.l3 = 4, (ip[0] & 15) * 4
    known.ip_bad = csum(ip[: known.l3]) != 0xFFFF
    if be16(ip, 6) & 0x3FFF:
        known.ptype, known.fragment = 22, True
        return known
    return upper(known, 22, ip[9], 1, len(ip) - known.l3)


def ipv6(head: bytes, known: Known) -> Known:
    ip = head[known.l2 :]
    if len(ip) < 40 or ip[0] >> 4 != 6:
        return known
    known.version, known.l3 = 6, 40
    protocol, walked = ip[6], 0
    while protocol in (0, 43, 60):
        rest = ip[known.l3 :]
        size = rest[1] * 8 + 8 if len(rest) >= 8 else 0
        if not 0 < size <= len(rest) or (protocol == 43 and rest[3]) or walked == 8:
            known.ptype = 89
            return known
        protocol, walked = rest[0], walked + 1
        known.l3 += size
    if protocol == 44:
        known.ptype, known.fragment = 88, True
        return known
    return upper(known, 88, protocol, 58, len(ip) - known.l3)


def upper(known: Known, base: int, protocol: int, icmp: int, room: int) -> Known:
    if protocol in HEADER and room >= HEADER[protocol]:
        known.protocol, known.ptype = protocol, base + KIND[protocol]
    else:
        known.ptype = base + (6 if protocol == icmp else 1)
    return known


def parse(head: bytes) -> Known:
    known = Known()
    if len(head) < 14:
        known.l2 = len(head)
        return known
    ethertype = be16(head, 12)
    while ethertype in TPIDS and known.l2 < 22 and len(head) >= known.l2 + 4:
        known.tci = be16(head, 14)
        ethertype = be16(head, known.l2 + 2)
        known.l2 += 4
    if ethertype == 0x0800:
        return ipv4(head, known)
    if ethertype == 0x86DD:
        return ipv6(head, known)
    known.ptype = NON_IP.get(ethertype, 1)
    return known


def l4_range(frame: bytes, known: Known) -> tuple[int, int, int] | None:
    """What the L4 checksum of a received frame covers, if it can be checked at all."""
    if not known.protocol:
        return None
    start = known.l2 + known.l3
    if known.version == 4:
        end = known.l2 + be16(frame, known.l2 + 2)
    else:
        end = known.l2 + 40 + be16(frame, known.l2 + 4)
    if end > len(frame) or end - start < HEADER[known.protocol]:
        return None
    if known.protocol == UDP:
        if be16(frame, start + 6) == 0:
            return None
        size = be16(frame, start + 4)
        if size < 8 or size > end - start:
            return None
        end = start + size
    return start, end, start + FIELD[known.protocol]


def addresses(frame: bytes, known: Known) -> bytes:
    at, size = (12, 8) if known.version == 4 else (8, 32)
    return frame[known.l2 + at : known.l2 + at + size]


def pseudo(frame: bytes, known: Known, l4_bytes: int) -> bytes:
    return addresses(frame, known) + l4_bytes.to_bytes(4, "big") + known.protocol.to_bytes(4, "big")


def rss(frame: bytes, known: Known, key: bytes, hena: int) -> int | None:
    if not known.version:
        return None
    kind = known.ptype - (22 if known.version == 4 else 88)
    if not hena >> (HENA[kind] + (0 if known.version == 4 else 10)) & 1:
        return None
    at = known.l2 + known.l3
    ports = frame[at : at + 4] if known.protocol else b""
    return toeplitz(key, addresses(frame, known) + ports)


def l4_csum(frame: bytes, known: Known, l4: bytes) -> bytes:
    """The checksum of an L4 header with a zero field and its payload."""
    value = csum(pseudo(frame, known, len(l4)) + l4) ^ 0xFFFF
    if value == 0 and known.protocol == UDP:
        value = 0xFFFF
    return value.to_bytes(2, sys.byteorder)


def put(data: bytearray, at: int, value: int, size: int = 2) -> None:
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "big")


def segments(frame: bytes, known: Known, l4_len: int, mss: int) -> list[bytes]:
    """TCP or UDP segmentation with final checksums, one whole frame per segment."""
    l4 = known.l2 + known.l3
    header = frame[: l4 + l4_len]
    payload = frame[l4 + l4_len :]
    cuts = [payload[at : at + mss] for at in range(0, len(payload), mss)]
    made = []
    for index, cut in enumerate(cuts):
        out = bytearray(header)
        if known.version == 4:
            put(out, known.l2 + 2, known.l3 + l4_len + len(cut))
            put(out, known.l2 + 4, be16(frame, known.l2 + 4) + index)
            out[known.l2 + 10 : known.l2 + 12] = bytes(2)
            value = csum(bytes(out[known.l2 : l4])) ^ 0xFFFF
            out[known.l2 + 10 : known.l2 + 12] = value.to_bytes(2, sys.byteorder)
        else:
            put(out, known.l2 + 4, known.l3 - 40 + l4_len + len(cut))
        field = l4 + FIELD[known.protocol]
        if known.protocol == TCP:
            put(out, l4 + 4, int.from_bytes(header[l4 + 4 : l4 + 8], "big") + index * mss, 4)
            if index + 1 < len(cuts):
                out[l4 + 13] &= 0xFF ^ 0x09
            if index:
                out[l4 + 13] &= 0xFF ^ 0x80
        else:
            put(out, l4 + 4, 8 + len(cut))
        out[field : field + 2] = bytes(2)
        out[field : field + 2] = l4_csum(frame, known, bytes(out[l4:]) + cut)
        made.append(bytes(out) + cut)
    return made
