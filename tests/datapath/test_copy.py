"""emit_frame and emit_segment: every way to cut what is read and what is written."""

import random
import struct

import pytest

from emuiavf.datapath import _probe
from emuiavf.datapath._probe import Probe
from tests.model import offload
from tests.model.kernels import crc32c, csum

PROTO = {offload.TCP: _probe.L4_TCP, offload.UDP: _probe.L4_UDP, offload.SCTP: _probe.L4_SCTP}
TAG = bytes.fromhex("81000123")
DATA = random.Random(3).randbytes(4096)


def frame(proto: int, size: int, tag: bytes = b"") -> bytes:
    """Ethernet, IPv4 and L4 with right checksums."""
    header = {
        offload.TCP: struct.pack(">HHIIBBHHH", 5, 6, 7, 8, 0x50, 0x18, 512, 0, 0),
        offload.UDP: struct.pack(">HHHH", 5, 6, 8 + size, 0),
        offload.SCTP: struct.pack(">HHII", 5, 6, 7, 0),
    }[proto]
    length = 20 + len(header) + size
    ip = struct.pack(">BBHHHBBH8s", 0x45, 0, length, 9, 0, 64, proto, 0, bytes(range(8)))
    ip = ip[:10] + (csum(ip) ^ 0xFFFF).to_bytes(2, "little") + ip[12:]
    data = bytes(12) + tag + b"\x08\0" + ip + header + DATA[:size]
    return with_csum(data)


def with_csum(data: bytes) -> bytes:
    known = offload.parse(data)
    start = known.l2 + known.l3
    at = start + offload.FIELD[known.protocol]
    if known.protocol == offload.SCTP:
        value = struct.pack("<I", crc32c(data[start:at] + bytes(4) + data[at + 4 :]))
    else:
        blank = data[start:at] + bytes(2) + data[at + 2 :]
        value = offload.l4_csum(data, known, blank)
    return data[:at] + value + data[at + len(value) :]


def asking(data: bytes, head_len: int, flags: int, l4_len: int = 0, mss: int = 0) -> Probe:
    """A frame whose sender left its checksums to us and wrote rubbish there."""
    known = offload.parse(data)
    start = known.l2 + known.l3
    at = start + offload.FIELD[known.protocol]
    width = 4 if known.protocol == offload.SCTP else 2
    data = data[: known.l2 + 10] + b"\x77\x77" + data[known.l2 + 12 :]
    data = data[:at] + b"\x12\x34\x56\x78"[:width] + data[at + width :]
    return Probe(
        data,
        head_len=head_len,
        flags=flags,
        l2_len=known.l2,
        l3_len=known.l3,
        l4_len=l4_len,
        l4_proto=PROTO[known.protocol],
        mss=mss,
    )


BOTH = _probe.ASK_IP_CSUM | _probe.ASK_L4_CSUM


def cuts(total: int, at: int) -> list[int]:
    return [size for size in (at, total - at) if size]


@pytest.mark.parametrize("proto", PROTO)
@pytest.mark.parametrize("tag", [b"", TAG], ids=["untagged", "strip"])
def test_checksums_asked_for_with_every_cut(proto: int, tag: bytes) -> None:
    head_len, size = 70, 45
    data = frame(proto, size, tag)
    strip = len(tag)
    expected = data[:12] + data[12 + strip :]
    for source in range(len(data) - head_len):
        for piece in range(1, len(expected), 3):
            probe = asking(data, head_len, BOTH)
            assert probe.check_request()
            got, good = probe.emit(
                cuts(len(data) - head_len, source), cuts(len(expected), piece), strip=strip
            )
            assert got == expected, (source, piece)
            assert good is True


@pytest.mark.parametrize("proto", PROTO)
@pytest.mark.parametrize("damage", [None, 60, -1], ids=["right", "in the head", "behind it"])
def test_verdict_with_every_cut(proto: int, damage: int | None) -> None:
    head_len = 66
    data = bytearray(frame(proto, 40) + b"\0padding")
    if damage is not None:
        data[damage if damage > 0 else -9] ^= 4
    sent = bytes(data)
    for source in range(len(sent) - head_len):
        for piece in range(1, len(sent), 5):
            probe = Probe(sent, head_len=head_len)
            probe.parse()
            got, good = probe.emit(cuts(len(sent) - head_len, source), cuts(len(sent), piece))
            assert got == sent
            assert good is (damage is None), (source, piece)


def test_verdict_is_not_sought_when_nobody_asks() -> None:
    probe = Probe(frame(offload.UDP, 100), head_len=64)
    probe.parse()
    assert probe.emit([78], [142], judge=False) == (frame(offload.UDP, 100), None)


@pytest.mark.parametrize("pieces", [[1] * 60 + [82], [20] * 7 + [2], [142], [141, 1], [12, 130]])
def test_many_pieces(pieces: list[int]) -> None:
    data = frame(offload.UDP, 100)
    for sources in ([1] * 63 + [15], [78], [26, 26, 26]):
        probe = asking(data, 64, BOTH)
        assert probe.check_request()
        assert probe.emit(sources, pieces) == (data, True)


@pytest.mark.parametrize("proto", [offload.TCP, offload.UDP])
@pytest.mark.parametrize("tag", [b"", TAG], ids=["untagged", "strip"])
@pytest.mark.parametrize("head_len", [58, 62, 80, 128])
def test_segments_with_every_cut(proto: int, tag: bytes, head_len: int) -> None:
    mss, size = 37, 100
    data = frame(proto, size, tag)
    known = offload.parse(data)
    l4_len = offload.HEADER[proto]
    expected = offload.segments(data, known, l4_len, mss)
    flags = BOTH | _probe.ASK_TSO
    if head_len > len(data):
        head_len = len(data)
    for source in range(0, max(1, len(data) - head_len), 2):
        for number, whole in enumerate(expected):
            want = whole[:12] + whole[12 + len(tag) :]
            for piece in range(1, len(want), 4):
                probe = asking(data, head_len, flags, l4_len, mss)
                if not probe.check_request():
                    assert head_len < known.l2 + known.l3 + l4_len
                    return
                got, _ = probe.emit(
                    cuts(len(data) - head_len, source),
                    cuts(len(want), piece),
                    strip=len(tag),
                    at=number * mss,
                )
                assert got == want, (source, number, piece)


def test_checksum_that_comes_out_as_zero_is_sent_as_ones() -> None:
    """RFC 768: zero says that there is none."""
    data = bytearray(frame(offload.UDP, 60))
    # Choose two payload bytes so that the sum over everything is all ones.
    data[-2:] = bytes(2)
    known = offload.parse(bytes(data))
    start = known.l2 + known.l3
    rest = csum(
        offload.pseudo(bytes(data), known, 68) + data[start : start + 6] + data[start + 8 :]
    )
    data[-2:] = (0xFFFF - rest).to_bytes(2, "little")
    probe = asking(bytes(data), 64, BOTH)
    assert probe.check_request()
    got, good = probe.emit([len(data) - 64], [len(data)])
    assert got[start + 6 : start + 8] == b"\xff\xff"
    assert good is True
