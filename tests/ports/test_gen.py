"""Bursts of the generating port, each kind that the CPU has, against the model of a frame."""

from typing import Any

import pytest

from emuiavf.ports import _gen_probe
from emuiavf.ports._gen import Generator
from tests.model import numbered, offload

DST, SRC = bytes.fromhex("0a1b2c3d4e5f"), bytes.fromhex("f2fdfcfbfaf9")
SIZES = [64, 65, 71, 72, 96, 127, 128, 129, 135, 160, 161, 1518, 9728]
PARSED, IPV4, L4_GOOD = 1 << 5, 1 << 6, 1 << 10
Made = list[tuple[bytes, dict[str, int]]]


def bursts(kind: str, **options: object) -> _gen_probe.Bursts:
    values: dict[str, Any] = {
        "size": 64,
        "flows": 1,
        "rate": 0,
        "count": 0,
        "dst": DST,
        "src": SRC,
        **options,
    }
    made = _gen_probe.Bursts(Generator("gen", values))
    if not made.use(kind):
        pytest.skip(f"this CPU has no {kind}")
    return made


@pytest.fixture(params=sorted(_gen_probe.KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def frames(made: Made) -> list[bytes]:
    return [data for data, _ in made]


def wanted(first: int, count: int, now_ns: int, size: int = 64, flows: int = 1) -> list[bytes]:
    return [
        numbered.frame(size, n % flows, n // flows, now_ns, src=SRC, dst=DST)
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flows", [1, 2, 3, 4, 5, 7, 31, 32, 33, 1000, 1024])
def test_frames_are_as_the_model_makes_them(kind: str, size: int, flows: int) -> None:
    count = min(32, 131072 // size)
    gen = bursts(kind, size=size, flows=flows)
    firsts = [0, 1, flows - 1, 3 * flows - 2, 12345]
    assert [frames(gen.take(first, 10**15 + first)) for first in firsts] == [
        wanted(first, count, 10**15 + first, size, flows) for first in firsts
    ]


@pytest.mark.parametrize("now_ns", [0, 1, (1 << 48) - 1, 1 << 48, (1 << 64) - 1])
@pytest.mark.parametrize(("flows", "bits"), [(1, 8), (1, 32), (1, 48), (3, 48), (3, 61), (1, 63)])
def test_numbers_and_times_may_grow_past_any_of_their_words(
    kind: str, now_ns: int, flows: int, bits: int
) -> None:
    first = (flows << bits) - 10
    gen = bursts(kind, flows=flows)
    assert frames(gen.take(first, now_ns)) == wanted(first, 32, now_ns, 64, flows)


def test_number_after_the_last_one_is_0(kind: str) -> None:
    gen = bursts(kind)
    assert frames(gen.take((1 << 64) - 10, 5)) == wanted(-10, 32, 5)


@pytest.mark.parametrize("sizes", [range(64, 600), range(600, 1519)], ids=["short", "long"])
def test_every_length_has_its_header_checksum(kind: str, sizes: range) -> None:
    made = {size: bursts(kind, size=size, count=1).take(0, 7)[0][0] for size in sizes}
    assert made == {size: wanted(0, 1, 7, size)[0] for size in sizes}


@pytest.mark.parametrize("size", [64, 200])
def test_what_is_left_of_a_count_is_one_burst(kind: str, size: int) -> None:
    gen = bursts(kind, count=100, size=size)
    left = [*range(68, 101)]
    assert [frames(gen.take(first, 3)) for first in left] == [
        wanted(first, 100 - first, 3, size) for first in left
    ]


@pytest.mark.parametrize("count", range(10))
@pytest.mark.parametrize("size", [64, 200])
def test_rate_allows_so_many_frames(kind: str, count: int, size: int) -> None:
    gen = bursts(kind, rate=1000, size=size)
    gen.take(0, 1)
    assert frames(gen.take(50, 1 + count * 10**6)) == wanted(50, count, 1 + count * 10**6, size)


@pytest.mark.parametrize("size", SIZES)
def test_frame_says_of_itself_what_a_parser_finds(kind: str, size: int) -> None:
    made = bursts(kind, size=size, flows=3).take(0, 1)
    known = offload.parse(made[0][0][:128])
    said = {
        "len": size,
        "flags": PARSED | IPV4 | L4_GOOD,
        "hash": 0,
        "cursor": 0,
        "l2_len": 14,
        "l3_len": 20,
        "l4_len": 8,
        "mss": 0,
        "ptype": known.ptype,
        "l4_proto": 3,
        "vlan_tci": 0,
        "dst_mac": int.from_bytes(DST, "little"),
        "whole": int(size <= 128),
    }
    assert (known.version, known.protocol, known.ip_bad) == (4, 17, False)
    assert [facts for _, facts in made] == [said] * len(made)


# As all versions have made them: number 1 of flow 2.
HEAD_64 = """
    0200000000010200000000fe0800 45000032000040004011ae91c6130001c6130002 40020009001e0000
    0100000000000000 2cf3652065010000 0200 74524968
"""
HEAD_129 = """
    0200000000010200000000fe0800 45000073000040004011ae50c6130001c6130002 40020009005f0000
    0100000000000000 45928e3365010000 0200 5a93f48d
    2cf894fe72f36e3c2fe527d0a53d240e32d2baa1d887d9df35bf4d730bd28eb1
    38ace0443e1c44833b9973167166f9543e8606e8a3b0ae26417399b9d6fa63f8 28
"""


@pytest.mark.parametrize("text", [HEAD_64, HEAD_129], ids=[64, 129])
def test_frames_of_other_versions_are_the_same(kind: str, text: str) -> None:
    frame = bytes.fromhex(text)
    gen = bursts(kind, size=len(frame), flows=7, dst=frame[:6], src=frame[6:12])
    assert gen.take(9, int.from_bytes(frame[50:58], "little"))[0][0] == frame
