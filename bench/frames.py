"""The frames that benches send: over IPv4 between two fixed hosts, all checksums right but those of
`tcp4`, which is to be segmented."""

import struct

HEADERS = 14 + 20 + 8
TCP_HEADERS = 14 + 20 + 20
ADDRESSES = bytes([10, 0, 0, 1, 10, 0, 0, 2])


def _csum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _ip4(protocol: int, size: int) -> bytes:
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 1, 0, 64, protocol, 0) + ADDRESSES
    return ip[:10] + _csum(ip).to_bytes(2, "big") + ip[12:]


def udp4(size: int, src_mac: bytes, dst_mac: bytes) -> bytes:
    """A frame of `size` bytes as on the wire, FCS included: what is built has 4 less."""
    payload = bytes(index & 0xFF for index in range(size - 4 - HEADERS))
    udp_len = 8 + len(payload)
    ip = _ip4(17, udp_len)
    udp = struct.pack(">HHHH", 4000, 4001, udp_len, 0)
    pseudo = ADDRESSES + struct.pack(">HH", 17, udp_len)
    udp = udp[:6] + (_csum(pseudo + udp + payload) or 0xFFFF).to_bytes(2, "big")
    return dst_mac + src_mac + b"\x08\x00" + ip + udp + payload


def tcp4(size: int, src_mac: bytes, dst_mac: bytes) -> bytes:
    """`size` bytes to be segmented, as a driver leaves them: the TCP checksum is that of the
    addresses and the protocol alone."""
    payload = bytes(index & 0xFF for index in range(size - TCP_HEADERS))
    seed = _csum(ADDRESSES + struct.pack(">HH", 6, 0)) ^ 0xFFFF
    tcp = struct.pack(">HHIIBBHHH", 4000, 4001, 1, 1, 5 << 4, 0x18, 512, seed, 0)
    return dst_mac + src_mac + b"\x08\x00" + _ip4(6, 20 + len(payload)) + tcp + payload
