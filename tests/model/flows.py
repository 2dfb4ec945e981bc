"""Which hash, queue and mark a received frame gets: slow, obvious, from the messages themselves.

Shares nothing with the product but the meaning of the numbers on the wire.
"""

from dataclasses import dataclass, field

from tests.model import offload
from tests.model.kernels import toeplitz
from tests.model.offload import Known

ETH, S_VLAN, C_VLAN, IPV4, IPV6, TCP, UDP, SCTP, IPV4_FRAG, IPV6_FRAG = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    22,
    23,
)
PROTOCOL = {TCP: offload.TCP, UDP: offload.UDP, SCTP: offload.SCTP}
Headers = tuple[tuple[int, int], ...]  # type and field selector of each


def bits(selector: int) -> set[int]:
    return {n for n in range(32) if selector >> n & 1}


def word(data: bytes, keep: slice, at: int) -> bytes:
    """Four bytes at `at`, of which only those in `keep` are not blanked."""
    kept = bytearray(4)
    for n in range(*keep.indices(4)):
        kept[n] = data[at + n]
    return bytes(kept)


def kind_of(known: Known) -> str:
    """What is asked first of a packet: its L4, that it is a fragment, or just IP."""
    if not known.version:
        return "ether"
    if known.fragment:
        return "frag"
    return {offload.TCP: "tcp", offload.UDP: "udp", offload.SCTP: "sctp"}.get(known.protocol, "ip")


@dataclass
class Said:
    """One ADD_RSS_CFG that holds."""

    headers: Headers
    symmetric: bool

    @property
    def version(self) -> int:
        types = [kind for kind, _ in self.headers]
        return 4 if IPV4 in types else 6 if IPV6 in types else 0

    @property
    def upper(self) -> str:
        names = {TCP: "tcp", UDP: "udp", SCTP: "sctp", IPV4_FRAG: "frag", IPV6_FRAG: "frag"}
        found = [names[kind] for kind, _ in self.headers if kind in names]
        return found[0] if found else "ip" if self.version else "ether"


@dataclass
class Rss:
    """The hash and queue of a frame, by what has been asked for."""

    key: bytes
    lut: bytes
    hena: int
    symmetric: bool = False
    xor: bool = False
    said: list[Said] = field(default_factory=list)

    def add(self, headers: Headers, algorithm: int = 0) -> None:
        self.xor = algorithm == 1
        if self.xor:
            return
        new = Said(headers, algorithm == 2)
        self.said = [
            old for old in self.said if (old.version, old.upper) != (new.version, new.upper)
        ]
        shift = 10 if new.version == 6 else 0
        if new.upper in ("tcp", "udp", "sctp") and self.hena >> (35 + shift) & 1:
            self.hena &= ~(3 << (35 + shift))
            whole = Said(((IPV4 if new.version == 4 else IPV6, 3),), self.symmetric)
            if not any((old.version, old.upper) == (new.version, "ip") for old in self.said):
                self.said.append(whole)
        if new.upper == "ip":
            self.said = [
                old for old in self.said if old.version != new.version or old.upper == "frag"
            ]
            self.hena &= ~(0xFF << 29 << shift)
        classes = {"tcp": 3 << 32, "udp": 7 << 29, "sctp": 1 << 34}
        self.hena &= ~(classes.get(new.upper, 0) << shift)
        self.said.append(new)

    def remove(self, headers: Headers) -> None:
        self.xor = False
        self.said = [old for old in self.said if old.headers != headers]

    def choice(self, version: int, upper: str) -> Said | None:
        for said in self.said:
            if (said.version, said.upper) == (version, upper) and version:
                return said
        return None

    def hash(self, frame: bytes) -> int | None:
        known = offload.parse(frame[:128])
        said = self.choice(known.version, kind_of(known))
        if said is None:
            if known.version:
                shift = 10 if known.version == 6 else 0
                number = offload.HENA[known.ptype - (22 if known.version == 4 else 88)]
                if self.hena >> (number + shift) & 1:
                    ports = {"tcp": TCP, "udp": UDP, "sctp": SCTP}.get(kind_of(known))
                    headers = ((IPV4 if known.version == 4 else IPV6, 3),)
                    said = Said(headers + (((ports, 3),) if ports else ()), self.symmetric)
            said = said or self.choice(known.version, "ip")
            if said is None:
                ether = [s for s in self.said if s.upper == "ether"]
                if not ether:
                    return None
                said = ether[0]
        words = self.words(frame, known, said)
        result = 0
        for n, value in enumerate(words):
            start = 4 * (n % 12)
            share = toeplitz(self.key[start : start + 8], value)
            result ^= int.from_bytes(value, "big") if self.xor else share
        return result

    def words(self, frame: bytes, known: Known, said: Said) -> list[bytes]:
        """The fields in their order: addresses, ports, the rest as one list of places."""
        chosen = {kind: bits(selector) for kind, selector in said.headers}
        l3, l4 = known.l2, known.l2 + known.l3
        head = frame[:128] + bytes(8)
        ip = chosen.get(IPV4, set()) | chosen.get(IPV6, set())
        upper = chosen.get(TCP, set()) | chosen.get(UDP, set()) | chosen.get(SCTP, set())
        made: list[bytes] = []
        at, size = (12, 4) if known.version == 4 else (8, 16)
        source = head[l3 + at : l3 + at + size]
        target = head[l3 + at + size : l3 + at + 2 * size]
        if {11, 12} & ip and known.version == 6:
            source, target = source[:8], target[:8]
            ip = {n - 11 for n in ip & {11, 12}} | ip & {4}
        if said.symmetric and {0, 1} <= ip:
            source = target = bytes(a ^ b for a, b in zip(source, target, strict=True))
        for n, address in ((0, source), (1, target)):
            if n in ip:
                made += [address[k : k + 4] for k in range(0, len(address), 4)]
        ports = bytearray(head[l4 : l4 + 4])
        if said.symmetric and {0, 1} <= upper:
            ports[:] = bytes(a ^ b for a, b in zip(ports[:2], ports[2:], strict=True)) * 2
        if 0 not in upper:
            ports[:2] = bytes(2)
        if 1 not in upper:
            ports[2:] = bytes(2)
        if {0, 1} & upper:
            made.append(bytes(ports))
        rest: dict[int, bytearray] = {}

        def put(start: int, first: int, last: int) -> None:
            value = rest.setdefault(start, bytearray(4))
            value[first:last] = head[start + first : start + last]

        others = sum(len(bits(selector)) for _, selector in said.headers) - 1
        if 4 in ip and not (said.upper in ("tcp", "udp", "sctp") and others):
            put(*((l3 + 8, 1, 2) if known.version == 4 else (l3 + 4, 2, 3)))
        if IPV4_FRAG in chosen:
            put(l3 + 4, 0, 2)
        if IPV6_FRAG in chosen:
            put(l4 + 4, 0, 4)
        if 5 in ip:
            put(l3 + 8, 2, 4)
        if 2 in upper:
            put(
                *{"tcp": (l4 + 16, 0, 2), "udp": (l4 + 4, 2, 4), "sctp": (l4 + 8, 0, 4)}[said.upper]
            )
        made += [bytes(value) for value in rest.values()]
        mac = bytearray(head[:12])
        eth = chosen.get(ETH, set())
        if 1 not in eth:
            mac[:6] = bytes(6)
        if 0 not in eth:
            mac[6:] = bytes(6)
        made += [bytes(mac[:4])] if 1 in eth else []
        made += [bytes(mac[4:8])] if eth & {0, 1} else []
        made += [bytes(mac[8:12])] if 0 in eth else []
        if 2 in eth:
            made.append(word(head, slice(2, 4), l3 - 4))
        tag = (known.tci or 0) & 0xFFF
        if S_VLAN in chosen:
            made.append(tag.to_bytes(4, "big"))
        if C_VLAN in chosen:
            inner = offload.be16(head, known.l2 - 4) & 0xFFF if known.tci is not None else 0
            made.append(inner.to_bytes(4, "big"))
        return made

    def queue(self, frame: bytes) -> int:
        value = self.hash(frame)
        return 0 if value is None else self.lut[value % len(self.lut)]


@dataclass
class Rule:
    """One flow director rule: headers with the bytes of their values, or spec and mask."""

    headers: tuple[tuple[int, int, bytes], ...] = ()
    raw: tuple[bytes, bytes] | None = None
    queue: int | None = None
    region: int = 0
    drop: bool = False
    mark: int | None = None

    def matches(self, frame: bytes) -> bool:
        head = frame[:128]
        if self.raw is not None:
            spec, mask = self.raw
            return all(
                not bits or (at < len(head) and (head[at] ^ wanted) & bits == 0)
                for at, (wanted, bits) in enumerate(zip(spec, mask, strict=True))
            )
        known = offload.parse(head)
        types = [kind for kind, _, _ in self.headers]
        version = 4 if IPV4 in types else 6 if IPV6 in types else 0
        if known.version != version:
            return False
        for kind, selector, value in self.headers:
            start = known.l2 if kind in (IPV4, IPV6) else known.l2 + known.l3
            if kind in PROTOCOL and known.protocol != PROTOCOL[kind]:
                return False
            for bit in bits(selector):
                if kind == ETH:
                    if head[known.l2 - 2 : known.l2] != value[12:14]:
                        return False
                    continue
                first, last, mask = PLACES[kind][bit]
                got = int.from_bytes(head[start + first : start + last], "big")
                if (got ^ int.from_bytes(value[first:last], "big")) & mask:
                    return False
        return True


_PORTS = {0: (0, 2, 0xFFFF), 1: (2, 4, 0xFFFF)}
# By header and bit: the bytes of a field and which of their bits are its own.
PLACES: dict[int, dict[int, tuple[int, int, int]]] = {
    IPV4: {
        0: (12, 16, 0xFFFFFFFF),
        1: (16, 20, 0xFFFFFFFF),
        2: (1, 2, 0xFC),
        3: (8, 9, 0xFF),
        4: (9, 10, 0xFF),
    },
    IPV6: {
        0: (8, 24, (1 << 128) - 1),
        1: (24, 40, (1 << 128) - 1),
        2: (0, 2, 0x0FF0),
        3: (7, 8, 0xFF),
        4: (6, 7, 0xFF),
    },
    TCP: _PORTS,
    UDP: _PORTS,
    SCTP: _PORTS,
}


@dataclass
class Verdict:
    """Queue (None: dropped) and mark of a frame."""

    queue: int | None
    mark: int | None = None


def tried(rules: list[Rule]) -> list[Rule]:
    """In their order: each behind the first one that looks at the same bits as it does."""
    looks = [rule.raw[1] if rule.raw else [part[:2] for part in rule.headers] for rule in rules]
    order = sorted(range(len(rules)), key=lambda n: (looks.index(looks[n]), n))
    return [rules[n] for n in order]


def verdict(rules: list[Rule], rss: Rss, frame: bytes) -> Verdict:
    """The first rule that matches decides."""
    for rule in tried(rules):
        if rule.matches(frame):
            if rule.drop:
                return Verdict(None)
            queue = rss.queue(frame)
            if rule.queue is not None:
                low = (rss.hash(frame) or 0) & ((1 << rule.region) - 1)
                queue = rule.queue + low
            return Verdict(queue, rule.mark)
    return Verdict(rss.queue(frame))
