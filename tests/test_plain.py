"""The loops over plain frames, each kind that the CPU has, against slow words of the same."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from emuiavf import _ring_probe
from emuiavf.datapath import _probe
from tests.model import kernels, offload

IOVA = 0x7FFF_F000_0000
MEMORY = 1 << 16
HEAD, MAX_LEN, MIN_LEN = 128, 9728, 14
EOP, RS = 0x10, 0x20
MULTICAST, BROADCAST, PARSED, L4_GOOD, L4_BAD = 1 << 3, 1 << 4, 1 << 5, 1 << 10, 1 << 11
NOT_PLAIN = (0x1, 0xF, 0x80, 1 << 9, 3 << 9, 1 << 12, 3 << 12)
SETTINGS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200
)


@pytest.fixture(params=sorted(_ring_probe.KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    if not _ring_probe.use(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    assert _ring_probe.use("avx2") or _ring_probe.use("base")


def plain(size: int = MEMORY, iova: int = IOVA) -> tuple[_ring_probe.Plain, NDArray[np.uint8]]:
    memory = np.frombuffer(bytearray(random.Random(size).randbytes(size)), np.uint8)
    return _ring_probe.Plain(memory, iova), memory


def is_plain(address: int, word: int, size: int) -> bool:
    """As the specification has it, and wholly within the memory with room for a head."""
    longest = MAX_LEN if size >= MAX_LEN else HEAD
    length = word >> 34 & 0x3FFF
    asks = word & 0xF or word >> 7 & 1 or word >> 9 & 3 or word >> 12 & 3
    starts = IOVA <= address <= IOVA + size - longest
    return bool(word & EOP) and not asks and MIN_LEN <= length <= longest and starts


@st.composite
def tx_descriptors(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Mostly plain ones, some with one thing wrong."""
    made = []
    for _ in range(draw(st.integers(1, 32))):
        address = IOVA + draw(st.integers(0, MEMORY - MAX_LEN))
        word = EOP | draw(st.sampled_from([64, 60, 129, 1518])) << 34
        word |= draw(st.sampled_from([0, RS]))
        word |= draw(st.integers(0, (1 << 34) - 1)) & 0x3_FFFF_0000
        what = draw(st.integers(0, 40))
        if what == 0:
            word |= draw(st.sampled_from(NOT_PLAIN))
        elif what == 1:
            word &= ~EOP
        elif what == 2:
            length = draw(st.sampled_from([0, 1, 13, 14, HEAD, MAX_LEN, MAX_LEN + 1, 0x3FFF]))
            word = word & ((1 << 34) - 1) | length << 34
        elif what == 3:
            beyond = [-1, MEMORY - MAX_LEN, MEMORY - MAX_LEN + 1, MEMORY, 1 << 63]
            address = (IOVA + draw(st.sampled_from(beyond))) % (1 << 64)
        made.append((address, word))
    return made


@SETTINGS
@given(descriptors=tx_descriptors())
def test_scan_stops_at_the_first_that_is_not_plain(
    kind: str, descriptors: list[tuple[int, int]]
) -> None:
    burst, _ = plain()
    wanted: list[tuple[int, int]] = []
    reports = 0
    for address, word in descriptors:
        if not is_plain(address, word, MEMORY):
            break
        reports |= bool(word & RS) << len(wanted)
        wanted.append((address - IOVA, word >> 34 & 0x3FFF))
    found, reported = burst.scan(np.array(descriptors, np.uint64).reshape(-1))
    assert (found, reported) == (wanted, reports)


@pytest.mark.parametrize("size", [HEAD - 1, HEAD, HEAD + 1, 4096, MAX_LEN - 1, MAX_LEN])
def test_scan_never_reaches_behind_small_memory(kind: str, size: int) -> None:
    burst, _ = plain(size)
    for address in (IOVA - 1, IOVA, IOVA + 1, IOVA + size - HEAD, IOVA + size - HEAD + 1):
        for length in (14, HEAD, HEAD + 1, MAX_LEN):
            word = EOP | length << 34
            found, _ = burst.scan(np.array([address, word] * 4, np.uint64))
            assert len(found) == 4 * is_plain(address, word, size), (address - IOVA, length)


@SETTINGS
@given(
    lengths=st.lists(st.integers(MIN_LEN, 300), min_size=1, max_size=20)
    | st.builds(
        lambda length, count: [length] * count, st.integers(MIN_LEN, 66), st.integers(2, 20)
    ),
    first=st.integers(0, 12),
    budget=st.integers(1, 4000),
)
def test_fill_makes_frames_until_the_budget_is_spent(
    kind: str, lengths: list[int], first: int, budget: int
) -> None:
    burst, memory = plain()
    words = [(IOVA + 611 * i, EOP | length << 34) for i, length in enumerate(lengths)]
    memory[0::611] &= 0xFE
    memory[611:617] = 0xFF
    burst.scan(np.array(words, np.uint64).reshape(-1))
    count, size, common, seen = burst.fill(first, len(lengths), 1000, budget)
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    assert count == sum(begin < budget for begin in begins)
    assert size == sum(lengths[:count])
    words = memory[: 611 * count].reshape(count, 611)[:, :8].copy().view(np.uint64)
    assert (common, seen) == (np.bitwise_and.reduce(words), np.bitwise_or.reduce(words))
    for i in range(count):
        frame, length, at = burst.frame(first + i), lengths[i], 611 * i
        data = memory[at : at + length].tobytes()
        assert frame["head"] == data[:HEAD]
        assert frame["len"] == length
        assert frame["segs"] == ((at + HEAD, length - HEAD) if length > HEAD else None)
        assert frame["next_slot"] == 1001 + i
        assert frame["dst_mac"] == int.from_bytes(data[:6], "little")
        cast = MULTICAST if data[0] & 1 else 0
        assert frame["flags"] == (cast | BROADCAST if data[:6] == b"\xff" * 6 else cast)
        zero = ("hash", "cursor", "l2_len", "l3_len", "l4_len", "mss", "l4_proto")
        assert [frame[name] for name in zero] == [0] * len(zero)
        assert frame["ptype"] == 1
        assert burst.whole >> (first + i) & 1 == (length <= HEAD)
    assert burst.whole >> (first + count) == 0
    assert burst.whole & ((1 << first) - 1) == 0


@SETTINGS
@given(
    offsets=st.lists(
        st.integers(0, MEMORY - 144)
        | st.sampled_from([-1, MEMORY - 144, MEMORY - 143, MEMORY, (1 << 63) - 1, 1 << 63]),
        min_size=1,
        max_size=32,
    )
)
def test_buffers_stop_at_the_first_out_of_reach(kind: str, offsets: list[int]) -> None:
    burst, _ = plain()
    wanted = []
    for offset in offsets:
        if not 0 <= offset <= MEMORY - 144:
            break
        wanted.append(offset)
    descriptors = [((IOVA + offset) % (1 << 64), 1, 2, 3) for offset in offsets]
    assert burst.buffers(np.array(descriptors, np.uint64).reshape(-1), 144) == wanted


@SETTINGS
@given(
    lengths=st.lists(st.integers(14, HEAD), min_size=1, max_size=32),
    mask=st.integers(1, (1 << 32) - 1),
)
def test_copy_writes_each_frame_and_nothing_beside_it(
    kind: str, lengths: list[int], mask: int
) -> None:
    burst, memory = plain()
    before = memory.copy()
    numbers = [i for i in range(32) if mask >> i & 1][: len(lengths)]
    frames = [random.Random(i).randbytes(lengths[n]) for n, i in enumerate(numbers)]
    for i, data in zip(numbers, frames, strict=True):
        burst.set(i, data, flags=1 << (i % 7))
    offsets = [300 * (n + 1) for n in range(len(numbers))]
    flags, seen, size = burst.copy(mask, offsets)
    assert flags == [1 << (i % 7) for i in numbers]
    assert seen == sum({1 << (i % 7) for i in numbers})
    assert size == sum(map(len, frames))
    for offset, data in zip(offsets, frames, strict=True):
        before[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    assert (memory == before).all()


@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("count", [1, 3, 8, 27])
def test_copies_of_one_length_are_the_frames_and_nothing_beside_them(
    kind: str, first: int, count: int
) -> None:
    for length in range(14, HEAD + 1):
        burst, memory = plain()
        before = memory.copy()
        frames = [random.Random(length + i).randbytes(length) for i in range(count)]
        for i, data in enumerate(frames):
            burst.set(first + i, data)
        offsets = [300 * (i + 1) + i for i in range(count)]
        burst.copy_alike(first, length, offsets)
        for offset, data in zip(offsets, frames, strict=True):
            before[offset : offset + length] = np.frombuffer(data, np.uint8)
        assert (memory == before).all()


def packets() -> list[Packet]:
    ether = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    both = [IP(src="10.1.2.3", dst="192.168.255.254"), IP(src="255.255.255.255", dst="0.0.0.0")]
    made: list[Packet] = []
    for ip in both:
        for size in (0, 1, 11, 12, 17, 18, 21, 22, 23, 24, 36, 37, 60, 80):
            made.append(ether / ip / UDP(sport=1, dport=65535) / Raw(bytes(range(size))))
            made.append(ether / ip / TCP(sport=7, dport=8) / Raw(b"\xff" * size))
        made.append(ether / ip / TCP(options=[("NOP", None)] * 4) / Raw(b"x" * 9))
        made.append(ether / ip / ICMP() / Raw(bytes(40)))
    made.append(ether / IP(options=b"\x01" * 4) / UDP() / Raw(bytes(30)))
    made.append(ether / IP(flags="MF") / UDP() / Raw(bytes(30)))
    made.append(ether / IP(frag=3) / UDP() / Raw(bytes(30)))
    made.append(ether / IP(tos=255, id=65535, flags="DF", ttl=0) / UDP() / Raw(bytes(30)))
    made.append(ether / Dot1Q(vlan=3) / IP() / UDP() / Raw(bytes(30)))
    made.append(ether / IP() / UDP(chksum=0) / Raw(bytes(30)))
    made.append(ether / IP() / UDP(len=7) / Raw(bytes(30)))
    made.append(ether / IP() / UDP(len=8) / Raw(bytes(30)))
    made.append(ether / IP() / UDP(len=39) / Raw(bytes(30)))
    made.append(ether / IP(len=19) / UDP() / Raw(bytes(30)))
    made.append(ether / IP(len=40) / TCP() / Raw(bytes(30)))
    made.append(ether / IP(len=39) / TCP() / Raw(bytes(30)))
    made.append(ether / IP(len=100) / TCP() / Raw(bytes(30)))
    return made


FRAMES = [bytes(packet)[:HEAD] for packet in packets()]
FRAMES += [frame.ljust(60, b"\0") for frame in FRAMES] + [frame + b"\x55" for frame in FRAMES[:20]]


def is_plain_packet(known: offload.Known) -> bool:
    """IPv4 without options, tags and fragments, with the whole header of TCP or UDP."""
    plain_ip = known.version == 4 and (known.l2, known.l3) == (14, 20) and not known.fragment
    return plain_ip and known.protocol in (offload.TCP, offload.UDP)


def right(data: bytes, known: offload.Known) -> bool | None:
    """Whether the L4 checksum is right, or None when there is none to be checked."""
    covered = offload.l4_range(data, known)
    if covered is None:
        return None
    l4 = data[covered[0] : covered[1]]
    return kernels.csum(offload.pseudo(data, known, len(l4)) + l4) == 0xFFFF


def check_judged(data: bytes, flags: int, verdict: bool) -> bool:
    """What the loop says of a frame is what the model says; returns whether it said anything."""
    burst, _ = plain()
    burst.set(3, data, flags)
    before = burst.frame(3)
    found, common = burst.judge(1 << 3, verdict)
    if not found:
        assert burst.frame(3) == before
        assert common is None
        return False
    known, frame = offload.parse(data), burst.frame(3)
    assert common in (None, (frame["len"], frame["flags"]))
    assert is_plain_packet(known)
    tcp = known.protocol == offload.TCP
    sizes = (14, 20, (data[46] >> 4) * 4 if tcp else 8)
    assert (frame["l2_len"], frame["l3_len"], frame["l4_len"]) == sizes
    assert (frame["ptype"], frame["l4_proto"]) == (known.ptype, 1 if tcp else 3)
    assert (frame["head"], frame["len"], frame["hash"]) == (data, len(data), 0)
    wanted = flags | PARSED | _probe.IPV4 | _probe.IP_BAD * known.ip_bad
    if verdict and not flags & (L4_GOOD | L4_BAD):
        wanted |= {None: 0, True: L4_GOOD, False: L4_BAD}[right(data, known)]
    assert frame["flags"] == wanted
    return True


@pytest.mark.parametrize("data", FRAMES, ids=range(len(FRAMES)))
def test_judged_as_by_the_model(kind: str, data: bytes) -> None:
    for flags in (0, MULTICAST, L4_GOOD, L4_BAD):
        for verdict in (True, False):
            found = check_judged(data, flags, verdict)
            assert found == (len(data) >= 54 and is_plain_packet(offload.parse(data)))
    for flags in (_probe.ASK_IP_CSUM, _probe.ASK_L4_CSUM, _probe.ASK_TSO, PARSED):
        assert not check_judged(data, flags, True)


@pytest.mark.parametrize("data", FRAMES[:12], ids=range(12))
def test_every_wrong_bit_is_found(kind: str, data: bytes) -> None:
    """A checksum tells any single bit; what is no longer a plain packet is left to the parser."""
    if check_judged(data, 0, True):
        for bit in range(8 * len(data)):
            wrong = bytearray(data)
            wrong[bit // 8] ^= 1 << bit % 8
            check_judged(bytes(wrong), 0, True)


@SETTINGS
@given(data=st.binary(min_size=54, max_size=HEAD), udp=st.booleans(), seed=st.integers(0, 255))
def test_hostile_packets_are_judged_as_by_the_model(
    kind: str, data: bytes, udp: bool, seed: int
) -> None:
    source = random.Random(seed)
    wild = bytearray(data)
    wild[12:15] = b"\x08\0\x45"
    wild[20:22] = source.choice([b"\0\0", b"\x40\0", b"\x20\0", b"\0\x01"])
    wild[23] = 17 if udp else 6
    lengths = (len(data) - 14, len(data) - 20, 20, 28, 40, 19, 0, 65535)
    wild[16:18] = source.choice(lengths).to_bytes(2, "big")
    if udp:
        sizes = (len(data) - 34, len(data) - 40, 8, 7, 0, 65535)
        wild[38:40] = source.choice(sizes).to_bytes(2, "big")
    check_judged(bytes(wild), 0, True)


KEY = bytes(random.Random(52).randbytes(52))
TCP_HASHED, UDP_HASHED = 1 << 1, 1 << 3
HASHED = 1 << 12


@pytest.mark.parametrize("hashed", [TCP_HASHED, UDP_HASHED, TCP_HASHED | UDP_HASHED])
@pytest.mark.parametrize("symmetric", [False, True])
def test_flows_are_hashed_as_by_the_model(kind: str, hashed: int, symmetric: bool) -> None:
    """Bursts of all frames by turns: what holds for one is not taken for the next one's."""
    source = random.Random(hashed)
    for _ in range(40):
        burst, _ = plain()
        frames = [source.choice(FRAMES) for _ in range(32)]
        if source.random() < 0.5:
            frames[4:20] = [frames[3]] * 16
        for i, data in enumerate(frames):
            burst.set(i, data)
        mask = source.getrandbits(32) | 1
        found, _ = burst.judge(mask, True, KEY, hashed, symmetric)
        for i, data in enumerate(frames):
            frame, known = burst.frame(i), offload.parse(data)
            assert found >> i & 1 == (
                mask >> i & 1 and len(data) >= 54 and is_plain_packet(known)
            ), i
            wanted = found >> i & 1 and hashed >> {6: 1, 17: 3}[known.protocol] & 1
            assert bool(frame["flags"] & HASHED) == bool(wanted)
            assert frame["hash"] == (flow_hash(data[26:38], symmetric) if wanted else 0)


def flow(source: random.Random, size: int, tcp: bool = False) -> bytes:
    """A frame of one of many flows, all right."""
    ip = IP(src=".".join(str(source.randrange(256)) for _ in range(4)), dst="10.0.0.1", ttl=3)
    ports = {"sport": source.randrange(65536), "dport": source.randrange(65536)}
    l4 = TCP(dataofs=source.choice([5, 6]), **ports) if tcp else UDP(**ports)
    made = Ether(dst="02:00:00:00:00:02") / ip / l4
    return bytes(made / Raw(source.randbytes(size - len(made))))


@pytest.mark.parametrize("tcp", [False, True])
def test_frames_that_become_alike_are_said_to_be(kind: str, tcp: bool) -> None:
    """What is said holds for all of them; one that differs in anything, anywhere, is enough not to
    say it.  A later burst is not judged by what an earlier one was like."""
    source = random.Random(tcp)
    burst, _ = plain()
    said = 0
    for _ in range(150):
        count, size = source.randint(1, 32), source.choice([60, 62, 64, 78])
        first = source.randrange(33 - count)
        frames = [flow(source, size, tcp) for _ in range(count)]
        mask = (1 << count) - 1 << first
        if source.random() < 0.3:
            mask &= source.getrandbits(32) | 1 << first
        odd = source.choice([i for i in range(count) if mask >> (first + i) & 1])
        how = source.choice(["", "", "flags", "length", "protocol", "sum", "arp", "fragment"])
        if how == "length":
            frames[odd] = flow(source, size + 2 if size < 78 else 60, tcp)
        elif how == "protocol":
            frames[odd] = flow(source, size, not tcp)
        elif how == "sum":
            at = source.randrange(14, size)
            frames[odd] = frames[odd][:at] + bytes([frames[odd][at] ^ 0x10]) + frames[odd][at + 1 :]
        elif how == "arp":
            frames[odd] = frames[odd][:12] + b"\x08\x06" + frames[odd][14:]
        elif how == "fragment":
            frames[odd] = frames[odd][:20] + b"\x20" + frames[odd][21:]
        for i, data in enumerate(frames):
            flags = MULTICAST if how == "flags" and i == odd else 0
            burst.set(first + i, data, flags=flags)
        _, common = burst.judge(mask, True, KEY, TCP_HASHED)
        seen = [burst.frame(i) for i in range(32) if mask >> i & 1]
        kinds = {(frame["len"], frame["flags"], frame["ptype"]) for frame in seen}
        if common is not None:
            said += 1
            assert [(*common, seen[0]["ptype"])] == list(kinds), how
        elif kind != "base":
            assert how
    assert said > 30 or kind == "base"


def flow_hash(flow: bytes, symmetric: bool) -> int:
    if symmetric:
        pair = [a ^ b for a, b in zip(flow[:4], flow[4:8], strict=True)]
        ports = [a ^ b for a, b in zip(flow[8:10], flow[10:12], strict=True)]
        flow = bytes(pair * 2 + ports * 2)
    return kernels.toeplitz(KEY, flow)


def test_what_an_earlier_receiver_found_is_found_again(kind: str) -> None:
    """Of a frame for several receivers: parsed, with another key's hash, and settled or not."""
    for data in FRAMES:
        for verdicts in ((True, True), (False, True), (True, False)):
            burst, _ = plain()
            burst.set(0, data)
            burst.set(1, data)
            first, _ = burst.judge(1, verdicts[0], bytes(52), TCP_HASHED | UDP_HASHED)
            again, _ = burst.judge(3, verdicts[1], KEY, UDP_HASHED)
            judged = right(data, offload.parse(data)) is not None if first else True
            if not verdicts[1] or (verdicts[0] and judged):
                assert again & 1 == first
            if again == 3:
                ours, other = burst.frame(0), burst.frame(1)
                if verdicts[0] and not verdicts[1]:
                    ours["flags"] &= ~(L4_GOOD | L4_BAD)
                assert ours == other


FORMATS = {"legacy": 1, "flex": 2, "ovs": 22}


@pytest.mark.parametrize("name", FORMATS)
def test_descriptors_say_what_the_frames_are(kind: str, name: str) -> None:
    source = random.Random(name)
    for _ in range(60):
        burst, _ = plain()
        mask = source.choice([0xFFFF_FFFF, 0xFF, source.getrandbits(32) | 1])
        numbers = [i for i in range(32) if mask >> i & 1]
        count = source.randint(1, len(numbers))
        sizes = source.choice([[64], [64, 60, 128]])
        seen = [0, MULTICAST, MULTICAST | BROADCAST, HASHED, _probe.IPV4, _probe.IP_BAD | L4_BAD]
        frames = {}
        for i in numbers:
            flags = source.choice(seen[: source.choice([1, 6])])
            frames[i] = (
                source.randbytes(source.choice(sizes)),
                flags,
                source.getrandbits(32),
                source.choice([1, 24, 26]),
            )
            burst.set(i, *frames[i])
        back = burst.back(FORMATS[name], mask, count)
        for n, i in enumerate(numbers[:count]):
            data, flags, number, ptype = frames[i]
            words = np.frombuffer(back[32 * n : 32 * n + 32], np.uint64)
            assert [int(word) for word in words] == descriptor(
                name, len(data), flags, number, ptype
            )
        assert back[32 * count :] in (b"", b"\xa5" * 32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("flags", [0, HASHED, HASHED | _probe.IPV4 | L4_GOOD])
def test_descriptors_of_one_kind_differ_in_their_hash(kind: str, name: str, flags: int) -> None:
    source = random.Random(name)
    for _ in range(30):
        burst, _ = plain()
        first = source.randrange(32)
        count, size = source.randint(1, 32 - first), source.randint(14, HEAD)
        ptype = source.choice([1, 24, 26])
        hashes = [source.getrandbits(32) for _ in range(count)]
        for i, number in enumerate(hashes):
            burst.set(first + i, bytes(size), flags, number, ptype)
        back = burst.back_alike(FORMATS[name], first, count)
        words = np.frombuffer(back[: 32 * count], np.uint64).reshape(count, 4)
        assert words.tolist() == [descriptor(name, size, flags, n, ptype) for n in hashes]
        assert back[32 * count :] in (b"", b"\xa5" * 32)


def descriptor(name: str, size: int, flags: int, number: int, ptype: int) -> list[int]:
    """A descriptor of one buffer as the data sheet has it, in four words."""
    cast = {0: 0, MULTICAST: 1, MULTICAST | BROADCAST: 2}[flags & (MULTICAST | BROADCAST)]
    ip, hashed = bool(flags & _probe.IPV4), bool(flags & HASHED)
    ip_bad, l4_bad = bool(flags & _probe.IP_BAD), bool(flags & L4_BAD)
    if name == "legacy":
        status = 0x3 | ip << 3 | cast << 9 | (0x3000 if hashed else 0) | ip_bad << 22 | l4_bad << 23
        return [number << 32, status | ptype << 30 | size << 38, 0, 0]
    status = 0x3 | ip << 3 | ip_bad << 4 | l4_bad << 5 | hashed << 12
    hashes = [number, 0xFFFF_FFFF] if name == "flex" else [0xFFFF_FFFF, number]
    first = FORMATS[name] | cast << 14 | ptype << 16 | size << 32
    return [first, status | hashes[0] << 32, 0, hashes[1]]
