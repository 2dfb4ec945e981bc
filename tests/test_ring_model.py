"""The compiled rings against a slow model, on the same random input: every byte and descriptor.

The model knows the descriptor formats (tests/model/ring.py), the RFCs (tests/model/offload.py) and
nothing of bursts, batches or hints.  After each round all of both guests' memory is compared.
"""

import itertools
import random
import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from emuiavf._rxdid import Rxdid
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxFilter, VlanOffload
from tests.model import extract, offload
from tests.model.kernels import crc32c, csum, toeplitz
from tests.model.ring import Memory, RxModel, TxModel
from tests.rings import Driver

MAC_A, MAC_B, GROUP = (
    bytes([2, 0, 0, 0, 0, 1]),
    bytes([2, 0, 0, 0, 0, 2]),
    bytes.fromhex("333300000001"),
)
MAX_BUFFERS = 5
L4T = {offload.TCP: 0x100, offload.SCTP: 0x200, offload.UDP: 0x300}
EVERYTHING = (1 << 64) - 1


@dataclass
class Request:
    """What is sent: bytes in the sender's memory, and the frame they stand for."""

    data: bytes
    cmd: int = 0
    lengths: tuple[int, int, int] = (0, 0, 0)
    tags: list[int] = field(default_factory=list)  # outer first
    mss: int = 0
    expected: bytes = b""  # with final checksums and without tags; of a large frame as it is
    bad: bool = False  # must be dropped as an error of the sender

    @property
    def asks(self) -> bool:
        """Is there anything to be computed?  0x20 and 0x40 alone only name the IP version."""
        return bool(self.cmd & 0x300) or self.cmd & 0x60 == 0x60

    @property
    def wire(self) -> bytes:
        tags = b"".join(struct.pack(">HH", 0x8100, tci) for tci in self.tags)
        return self.expected[:12] + tags + self.expected[12:]


def address(rng: random.Random) -> bytes:
    return rng.choice([MAC_B] * 6 + [GROUP, b"\xff" * 6, MAC_A])


def packet(rng: random.Random, size: int, tcp_only: bool = False) -> tuple[Packet, int, int]:
    """An IP packet with right checksums, its IP version and L4 protocol."""
    version = rng.choice([4, 6])
    proto = offload.TCP if tcp_only else rng.choice([offload.TCP, offload.UDP, offload.SCTP])
    ports = {"sport": rng.randrange(1, 65536), "dport": rng.choice([53, 80, 443])}
    l4: Packet = {
        offload.TCP: TCP(**ports, seq=rng.getrandbits(32), flags=rng.choice(["A", "PA", "FPA"])),
        offload.UDP: UDP(**ports),
        offload.SCTP: SCTP(**ports, tag=rng.getrandbits(32)),
    }[proto]
    if version == 4:
        options = [] if rng.random() < 0.8 else b"\x94\x04\0\0"
        l3: Packet = IP(
            src=f"10.0.{rng.randrange(256)}.1",
            dst="10.1.2.3",
            id=rng.getrandbits(16),
            options=options,
        )
    else:
        l3 = IPv6(src=f"fd00::{rng.randrange(1, 9999):x}", dst="fd00::2")
    ether = Ether(src=MAC_A.hex(":"), dst=address(rng).hex(":"))
    return Ether(bytes(ether / l3 / l4 / Raw(rng.randbytes(size)))), version, proto


def fix_sctp(data: bytes) -> bytes:
    """scapy's SCTP carries a CRC of its own making; ours is the model's."""
    known = offload.parse(data)
    l4 = known.l2 + known.l3
    blank = data[l4 : l4 + 8] + bytes(4) + data[l4 + 12 :]
    return data[: l4 + 8] + struct.pack("<I", crc32c(blank)) + data[l4 + 12 :]


def plain(rng: random.Random) -> Request:
    size = rng.choice([14, 18, 60, 64, 127, 128, 129, rng.randrange(14, 1600), 9000])
    data = address(rng) + MAC_A + b"\x88\xb5" + rng.randbytes(size - 14)
    return Request(data, expected=data)


def tagged(rng: random.Random) -> Request:
    inner = packet(rng, rng.randrange(200))[0]
    vlans = Dot1Q(vlan=rng.randrange(4096), prio=rng.randrange(8))
    if rng.random() < 0.3:
        vlans = vlans / Dot1Q(vlan=7)
    data = bytes(Ether(src=inner.src, dst=inner.dst) / vlans / inner.payload)
    return Request(data, expected=data)


def received_ip(rng: random.Random) -> Request:
    """Nothing asked; checksums right or not."""
    made, _version, proto = packet(rng, rng.choice([0, 1, 30, 100, rng.randrange(1500)]))
    data = bytearray(fix_sctp(bytes(made)) if proto == offload.SCTP else bytes(made))
    if rng.random() < 0.4:
        data[rng.randrange(14, len(data))] ^= 1 << rng.randrange(8)
    return Request(bytes(data), expected=bytes(data))


def asked(rng: random.Random) -> Request:
    """Checksums left to the device."""
    made, version, proto = packet(rng, rng.choice([0, 1, 30, 80, rng.randrange(3000)]))
    whole = fix_sctp(bytes(made)) if proto == offload.SCTP else bytes(made)
    known = offload.parse(whole)
    blank = bytearray(whole)
    cmd = 0x20 if version == 6 else rng.choice([0x40, 0x60])
    if cmd == 0x60:
        blank[24:26] = rng.randbytes(2)
    l4 = known.l2 + known.l3
    if rng.random() < 0.8:
        cmd |= L4T[proto]
        at = l4 + offload.FIELD[proto]
        width = 4 if proto == offload.SCTP else 2
        blank[at : at + width] = rng.randbytes(width)
    lengths = (known.l2, known.l3, offload.HEADER[proto])
    tags = [rng.getrandbits(16)] if rng.random() < 0.3 else []
    return Request(bytes(blank), cmd, lengths, tags, expected=whole)


def large(rng: random.Random) -> Request:
    payload = rng.choice([1, 64, 500, rng.randrange(1, 6000)])
    made, version, _proto = packet(rng, payload, tcp_only=True)
    data = bytearray(bytes(made))
    known = offload.parse(bytes(data))
    if version == 4:
        data[16:18] = data[24:26] = bytes(2)
    mss = rng.choice([64, 88, 333, 536, 1448, payload, 9000])
    tags = [rng.getrandbits(16) for _ in range(rng.choice([0, 0, 1, 2]))]
    cmd = L4T[offload.TCP] | (0x60 if version == 4 else 0x20)
    return Request(bytes(data), cmd, (14, known.l3, 20), tags, mss, bytes(data))


def bad(rng: random.Random) -> Request:
    made, version, _proto = packet(rng, 200, tcp_only=True)
    data = bytes(made)
    known = offload.parse(data)
    ip = 0x60 if version == 4 else 0x20
    return rng.choice(
        [
            Request(b"\x02" * rng.randrange(1, 14), bad=True),
            Request(bytes(9729), bad=True),
            Request(data, L4T[offload.UDP] | ip, (14, known.l3, 8), bad=True),
            Request(data, L4T[offload.TCP] | ip, (14, known.l3 + 4, 20), bad=True),
            Request(data, L4T[offload.TCP] | ip, (14, known.l3, 60), mss=100, bad=True),
            Request(data, L4T[offload.TCP] | ip, (126, 508, 60), mss=100, bad=True),
        ]
    )


def run(rng: random.Random) -> list[Request]:
    """Packets one after the other that are alike in all that has loops of its own; one may not."""
    size, tcp = rng.choice([0, 6, 18, 22, 36, 80]), rng.random() < 0.5
    made = []
    for _ in range(rng.randrange(4, 30)):
        ports = {"sport": rng.randrange(65536), "dport": rng.randrange(65536)}
        l4 = TCP(**ports) if tcp else UDP(**ports)
        ip = IP(src=f"10.0.{rng.randrange(256)}.9", dst="10.1.2.3", id=rng.getrandbits(16))
        ether = Ether(src=MAC_A.hex(":"), dst=MAC_B.hex(":"))
        data = bytes(ether / ip / l4 / Raw(rng.randbytes(size)))
        made.append(Request(data, expected=data))
    if rng.random() < 0.4:
        made[rng.randrange(len(made))] = rng.choice([plain, tagged, received_ip])(rng)
    return made


KINDS = [plain, plain, tagged, received_ip, received_ip, asked, asked, large, large, bad]


@dataclass(frozen=True)
class Config:
    ring_len: int
    buffer_size: int
    max_pkt_size: int
    queues: int
    judge: bool
    strip: bool
    rss: RssConfig
    rxdid: int


def config(rng: random.Random) -> Config:
    return Config(
        ring_len=rng.choice([32, 64, 96]),
        buffer_size=rng.choice([128, 256, 512, 1024, 2048, 4096]),
        max_pkt_size=rng.choice([1518, 9728]),
        queues=rng.choice([1, 2, 4]),
        judge=rng.random() < 0.8,
        strip=rng.random() < 0.4,
        rss=RssConfig(
            rng.randbytes(52),
            bytes(rng.randrange(6) for _ in range(64)),
            rng.choice([0, EVERYTHING, 1 << 33 | 1 << 43]),
            rng.random() < 0.5,
        ),
        rxdid=rng.choice(list(Rxdid)),
    )


def exclusive_or(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def rss_hash(data: bytes, known: offload.Known, rss: RssConfig) -> int | None:
    if not rss.symmetric or not known.version:
        return offload.rss(data, known, rss.key, rss.hena) if rss.hena else None
    if offload.rss(data, known, rss.key, rss.hena) is None:
        return None
    both = offload.addresses(data, known)
    half = len(both) // 2
    both = exclusive_or(both[:half], both[half:]) * 2
    ports = b""
    if known.protocol:
        at = known.l2 + known.l3
        ports = exclusive_or(data[at : at + 2], data[at + 2 : at + 4]) * 2
    return toeplitz(rss.key, both + ports)


def l4_is_bad(data: bytes, known: offload.Known) -> bool:
    found = offload.l4_range(data, known)
    if found is None:
        return False
    start, end, at = found
    if known.protocol == offload.SCTP:
        blank = data[start:at] + bytes(4) + data[at + 4 : end]
        return struct.pack("<I", crc32c(blank)) != data[at : at + 4]
    return csum(offload.pseudo(data, known, end - start) + data[start:end]) != 0xFFFF


@dataclass
class Delivery:
    """One frame, or one segment, as it must lie in the receiver's ring."""

    data: bytes
    bits: int
    tag: int | None
    hash: int | None
    words: extract.Words


def deliveries(request: Request, setup: Config) -> tuple[list[Delivery], int]:
    """What becomes of a request, and the longest frame of it as judged against the queue."""
    wire = request.wire
    known = offload.parse(wire[: 128 + 4 * len(request.tags)])
    cast = 2 if wire[:6] == b"\xff" * 6 else wire[0] & 1
    judged = setup.judge or setup.strip or setup.rss.hena != 0 or Rxdid(setup.rxdid).extracts
    bits = cast << 9
    if known.version and (judged or request.asks):
        bits |= 8
    bits |= (known.ptype if judged else 1) << 30
    hashed = rss_hash(wire, known, setup.rss)
    if hashed is not None:
        bits |= 3 << 12
    if request.mss:
        frames = offload.segments(wire, known, request.lengths[2], request.mss)
    else:
        frames = [wire]
        if judged and known.ip_bad:
            bits |= 1 << 22
        if setup.judge and l4_is_bad(wire, known):
            bits |= 1 << 23
    made = []
    for data in frames:
        tag, words = None, extract.words(setup.rxdid, data[: 128 + 4 * len(request.tags)])
        if setup.strip and len(data) >= 18 and data[12:14] == b"\x81\0":
            tag = int.from_bytes(data[14:16], "big")
            data = data[:12] + data[16:]
        made.append(Delivery(data, bits | (4 if tag is not None else 0), tag, hashed, words))
    return made, max(map(len, frames))


class Model:
    """Both guests' memory as it must be, and the counters."""

    def __init__(self, setup: Config, a: Driver, b: Driver) -> None:
        self.setup, self.a, self.b = setup, a, b
        self.sent: list[tuple[int, Request]] = []  # tail behind it
        self.progress = 0  # segments of the first that are delivered
        self.rows = {name: np.zeros(16, np.uint64) for name in ("rx", "tx")}
        self.tx_head = 0
        self.rx_head = [0] * setup.queues

    def run(self) -> None:
        """Deliver in order until the first frame finds no room."""
        self.memory_a = bytearray(self.a.memory[: self.a.top])
        self.memory_b = bytearray(self.b.memory[: self.b.top])
        tx = TxModel(
            Memory(memoryview(self.memory_a), 0), self.a.tx_ring[0], self.a.ring_len, self.tx_head
        )
        while self.sent:
            tail, request = self.sent[0]
            if not self.deliver(request):
                break
            self.progress = 0
            self.sent.pop(0)
            (taken,) = tx.take(tail)
            assert taken.data == request.data
        self.tx_head = tx.head

    def deliver(self, request: Request) -> bool:
        rx, tx = self.rows["rx"], self.rows["tx"]
        if request.bad:
            tx[5] += 1
            return True
        made, longest = deliveries(request, self.setup)
        wire = request.wire
        cast = 3 if wire[:6] == b"\xff" * 6 else 1 + (wire[0] & 1)
        wanted = wire[:6] in (MAC_B, GROUP, b"\xff" * 6)
        size = self.setup.buffer_size
        stripped = 4 if made[0].tag is not None else 0
        too_long = (
            longest > self.setup.max_pkt_size or -(-(longest - stripped) // size) > MAX_BUFFERS
        )
        if wanted:
            queue = 0
            if made[0].hash is not None:
                queue = self.setup.rss.lut[made[0].hash & 63]
                queue = queue if queue < self.setup.queues else 0
            ring = RxModel(
                Memory(memoryview(self.memory_b), 0),
                self.b.rx_ring[queue],
                self.b.ring_len,
                size,
                self.rx_head[queue],
                self.setup.rxdid,
            )
            for one in made[self.progress :]:
                if too_long:
                    rx[[4, 8]] += 1
                    rx[13] += len(one.data) + stripped + 4
                elif not ring.put(
                    self.b.rx_posted[queue],
                    one.data,
                    l2tag1=one.tag or 0,
                    rss=one.hash or 0,
                    bits=one.bits,
                    aux=one.words,
                ):
                    return False
                else:
                    rx[6] += 1
                    rx[12] += bool(one.bits >> 22 & 3)
                self.rx_head[queue] = ring.head
                self.progress += 1
                rx[0] += len(one.data) + stripped + 4
                rx[cast] += 1
        else:
            tx[12] += 1
        tx[6] += len(made)
        tx[cast] += len(made)
        tx[0] += sum(len(one.data) + stripped for one in made)
        if request.mss:
            tx[7] += len(made)
        return True


def send(rng: random.Random, driver: Driver, request: Request, whole: bool) -> None:
    """Write the request, with its data cut at random places unless `whole`."""
    tag = context = None
    if request.mss or len(request.tags) == 2 or (request.tags and rng.random() < 0.5):
        word = 1 | (0x10 | request.mss << 50 if request.mss else 0)
        low = 0
        if request.tags and (len(request.tags) == 2 or rng.random() < 0.5):
            word |= 0x40
            low = request.tags[0] << 32
            tag = request.tags[1] if len(request.tags) == 2 else None
        elif request.tags:
            tag = request.tags[0]
        context = (low, word)
    elif request.tags:
        tag = request.tags[0]
    most = 0 if whole else min(rng.choice([0, 0, 1, 3]), len(request.data) - 1)
    cuts = sorted(rng.sample(range(1, len(request.data)), most))
    edges = [0, *cuts, len(request.data)]
    driver.send(
        request.data,
        pieces=[end - begin for begin, end in itertools.pairwise(edges)],
        cmd=request.cmd,
        lengths=request.lengths,
        tag=tag,
        context=context,
    )


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.trap(23, 24)
def test_rings_do_what_the_model_does(seed: int) -> None:
    rng = random.Random(seed)
    setup = config(rng)
    engine = Engine(hold_s=1000.0)
    a = Driver("a", ring_len=64)
    b = Driver(
        "b",
        setup.queues,
        setup.ring_len,
        setup.buffer_size,
        setup.max_pkt_size,
        judge=setup.judge,
        rxdid=setup.rxdid,
    )
    b.vf.set_filter(RxFilter(frozenset({MAC_B, GROUP})))
    b.vf.set_rss(setup.rss)
    b.vf.set_vlan(VlanOffload(strip=setup.strip))
    for driver in (a, b):
        driver.enable()
        engine.add(driver.vf)
    engine.connect(a.vf, b.vf)
    model = Model(setup, a, b)
    data_begins = a.top
    for _ in range(20):
        if not model.sent:
            a.top = data_begins
        while (a.tx_next[0] - model.tx_head) % 64 < 40 and rng.random() < 0.85:
            alike = rng.random() < 0.2
            for request in run(rng) if alike else [rng.choice(KINDS)(rng)]:
                if (a.tx_next[0] - model.tx_head) % 64 < 56:
                    send(rng, a, request, alike)
                    model.sent.append((a.tx_next[0], request))
        for queue in range(setup.queues):
            used = (b.rx_posted[queue] - model.rx_head[queue]) % setup.ring_len
            b.post(rng.randrange(setup.ring_len - used), queue)
        model.run()
        engine.step(70)
        assert b.memory[: b.top] == model.memory_b
        assert a.memory[: a.top] == model.memory_a
        assert a.rows[1].tolist()[:10] + a.rows[1].tolist()[12:] == (
            model.rows["tx"].tolist()[:10] + model.rows["tx"].tolist()[12:]
        )
        assert sum(b.rows[: setup.queues]).tolist() == model.rows["rx"].tolist()
    assert a.vf.take_faults() == b.vf.take_faults() == []
    assert model.rows["rx"][6] > 30


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [offload.TCP, offload.UDP, None])
def test_symmetric_hash_is_the_same_both_ways(version: int, proto: int | None) -> None:
    rng = random.Random(version)
    engine = Engine()
    a, b = Driver("a"), Driver("b")
    rss = RssConfig(rng.randbytes(52), bytes(64), EVERYTHING, symmetric=True)
    b.vf.set_rss(rss)
    for driver in (a, b):
        driver.enable()
        engine.add(driver.vf)
    engine.connect(a.vf, b.vf)
    b.post(40)
    for _ in range(10):
        ips = [f"fd00::{rng.randrange(65536):x}" for _ in "ab"]
        if version == 4:
            ips = [f"10.{rng.randrange(256)}.3.{rng.randrange(256)}" for _ in "ab"]
        ports = [rng.randrange(65536) for _ in "ab"]
        hashes = []
        for src, dst in ((0, 1), (1, 0)):
            l3 = (IP if version == 4 else IPv6)(src=ips[src], dst=ips[dst])
            l4 = {offload.TCP: TCP, offload.UDP: UDP}.get(proto or 0)
            data = (
                Ether(src=MAC_A.hex(":"), dst=MAC_B.hex(":"))
                / l3
                / (l4(sport=ports[src], dport=ports[dst]) if l4 else Raw(b"x"))
            )
            a.send(bytes(data))
            engine.step()
            (got,) = b.receive()
            assert got.hash == rss_hash(got.data, offload.parse(got.data), rss)
            hashes.append(got.hash)
        assert hashes[0] == hashes[1] != 0
