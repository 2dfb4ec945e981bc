"""The frames that benches send: UDP over IPv4 between two fixed hosts, all checksums right."""

import struct

HEADERS = 14 + 20 + 8


def _csum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def udp4(size: int, src_mac: bytes, dst_mac: bytes) -> bytes:
    """A frame of `size` bytes as on the wire, FCS included: what is built has 4 less."""
    payload = bytes(index & 0xFF for index in range(size - 4 - HEADERS))
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    udp_len = 8 + len(payload)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + udp_len, 1, 0, 64, 17, 0) + addresses
    ip = ip[:10] + _csum(ip).to_bytes(2, "big") + ip[12:]
    udp = struct.pack(">HHHH", 4000, 4001, udp_len, 0)
    pseudo = addresses + struct.pack(">HH", 17, udp_len)
    udp = udp[:6] + (_csum(pseudo + udp + payload) or 0xFFFF).to_bytes(2, "big")
    return dst_mac + src_mac + b"\x08\x00" + ip + udp + payload
