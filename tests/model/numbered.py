"""Numbered frames as emuiavf/_pattern.pxd describes them, a byte and a word at a time."""

import struct

PRIME, STRIDE = 0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03
WORD = (1 << 64) - 1
SOURCE, TARGET = bytes([198, 19, 0, 1]), bytes([198, 19, 0, 2])
HEAD = 128


def frame(size: int, flow: int, seq: int, now_ns: int, *, src: bytes, dst: bytes) -> bytes:
    """Frame `seq` of a flow."""
    seq, now_ns = seq & WORD, now_ns & WORD
    ip = struct.pack(">BBHHHBBH", 0x45, 0, size - 14, 0, 0x4000, 64, 17, 0) + SOURCE + TARGET
    ip = ip[:10] + inverted_sum(ip) + ip[12:]
    head = dst + src + b"\x08\0" + ip + struct.pack(">HHHH", 0x4000 + flow, 9, size - 34, 0)
    head += struct.pack("<QQHI", seq, now_ns, flow, 0)
    seed = (seq + 1) * PRIME
    rest = pattern(seed + flow, min(size, HEAD) - 64) + pattern(seed ^ flow, size - HEAD)
    return head[:60] + check(head + rest) + rest


def inverted_sum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def pattern(seed: int, size: int) -> bytes:
    words = ((seed + i * STRIDE & WORD).to_bytes(8, "little") for i in range((size + 7) // 8))
    return b"".join(words)[: max(size, 0)]


def check(data: bytes) -> bytes:
    """The checksum of a frame that has 0 there."""
    to, origin = (int.from_bytes(data[at : at + 6], "little") for at in (0, 6))
    kind, start = (int.from_bytes(data[at : at + 2], "little") for at in (12, 14))
    mixed = [(to ^ origin) | kind << 48, to + origin ^ start << 48]
    padded = data + bytes(-len(data) % 32)
    words = [*mixed, *struct.unpack(f"<{len(padded) // 8 - 2}Q", padded[16:])]
    lanes = [PRIME ^ len(data), STRIDE, PRIME ^ WORD, STRIDE ^ WORD]
    for i, word in enumerate(words):
        lanes[i % 4] = (lanes[i % 4] ^ word) * PRIME & WORD
    folded = 0
    for lane in lanes:
        folded = ((folded ^ folded >> 32) * STRIDE & WORD) + lane & WORD
    folded = (folded ^ folded >> 32) * STRIDE & WORD
    return (folded >> 32).to_bytes(4, "little")
