"""Packets in packets as they have to be on the wire, built by scapy and not by us.

A `Tunnel` makes the packet of one payload, with every length, id and checksum; cutting is asking it
for the packets of the pieces.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

OUTER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
INNER = Ether(src="02:00:00:00:0a:01", dst="02:00:00:00:0a:02")
SEQ = 0xFFFF_FF00
FIN, PSH, CWR = 0x01, 0x08, 0x80
TIMES = [("NOP", None), ("NOP", None), ("Timestamp", (7, 8))]
# L4T and the length of the header.
INNER_L4 = {"tcp": (1, 32), "sctp": (2, 12), "udp": (3, 8)}
# What carries a packet behind the outer IP header: how it is built, and L4TUNT.
KINDS: dict[str, tuple[list[Packet], int]] = {
    "vxlan": ([UDP(sport=49152, dport=4789), VXLAN(vni=7, flags="Instance"), INNER], 1),
    "vxlan-bare": ([UDP(sport=5, dport=4789, chksum=0), VXLAN(vni=7), INNER], 1),
    "vxlan-vlan": ([UDP(sport=5, dport=4789), VXLAN(vni=7), INNER, Dot1Q(vlan=3)], 1),
    "geneve": ([UDP(sport=49153, dport=6081), GENEVE(vni=7, proto=0x6558), INNER], 1),
    "geneve-bare": ([UDP(sport=5, dport=6081, chksum=0), GENEVE(vni=9, proto=0x6558), INNER], 1),
    "gre": ([GRE()], 2),
    "gre-key": ([GRE(key_present=1, key=0x01020304)], 2),
    "gre-all": ([GRE(chksum_present=1, chksum=0x1234, key_present=1, key=9, seqnum_present=1)], 2),
    "gre-tap": ([GRE(proto=0x6558), INNER], 2),
    "ip": ([], 0),
}


@dataclass(frozen=True)
class Tunnel:
    """One shape of packet: `kind` of KINDS, IP versions, and the inner L4 protocol."""

    kind: str
    outer: int = 4
    inner: int = 4
    l4: str = "tcp"
    keep_id: bool = False
    extension: bool = False  # a destination options header, as Linux's ip6tnl has it

    @property
    def l4tunt(self) -> int:
        return KINDS[self.kind][1]

    @property
    def outer_csum(self) -> bool:
        """Whether there is an outer UDP checksum."""
        return self.l4tunt == 1 and not self.kind.endswith("-bare")

    def packet(self, payload: bytes, number: int = 0, at: int = 0, flags: int = 0x18) -> Packet:
        """The packet that carries `payload`, which begins at `at` of a whole of packets."""
        outer_id = 0xFFFE + (0 if self.keep_id else number)
        ids = (outer_id & 0xFFFF, (0x7F + number) & 0xFFFF)
        layers: list[Packet] = [OUTER.copy()]
        if self.outer == 4:
            layers.append(IP(src="192.0.2.1", dst="192.0.2.2", id=ids[0], ttl=9))
        else:
            layers.append(IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9))
            if self.extension:
                layers.append(IPv6ExtHdrDestOpt(options=[]))
        layers += [layer.copy() for layer in KINDS[self.kind][0]]
        if self.inner == 4:
            layers.append(IP(src="10.1.2.3", dst="192.168.200.9", id=ids[1], flags="DF"))
        else:
            layers.append(IPv6(src="fd00::1:2", dst="fd00::9:8:7"))
        layers += [self._l4(at, flags), Raw(payload)]
        built = layers[0]
        for below, layer in itertools.pairwise(layers):
            self._bind(below, layer)
            built = built / layer
        return built

    def pieces(self, payload: bytes, mss: int, flags: int = 0x18) -> list[bytes]:
        """The packets that a large one is to be cut into."""
        starts = range(0, len(payload), mss)
        made = []
        for number, at in enumerate(starts):
            mine = flags
            if at + mss < len(payload):
                mine &= ~(FIN | PSH)
            if number:
                mine &= ~CWR
            packet = self.packet(payload[at : at + mss], number, at, mine)
            made.append(bytes(packet))
        return made

    def _l4(self, at: int, flags: int) -> Packet:
        if self.l4 == "tcp":
            seq = (SEQ + at) & 0xFFFF_FFFF
            return TCP(sport=4000, dport=80, seq=seq, flags=flags, options=TIMES)
        if self.l4 == "udp":
            return UDP(sport=4001, dport=81)
        return SCTP(sport=1, dport=2)

    @staticmethod
    def _bind(below: Packet, layer: Packet) -> None:
        """Protocol numbers that scapy does not choose by itself."""
        name: dict[type, int] = {IP: 4, IPv6: 41, GRE: 47, SCTP: 132, UDP: 17, TCP: 6}
        number: Any = name.get(type(layer))
        if number is None:
            return
        if isinstance(below, IP):
            below.proto = number
        elif isinstance(below, IPv6 | IPv6ExtHdrDestOpt):
            below.nh = number


@dataclass(frozen=True)
class Places:
    """Where the headers of a packet begin."""

    outer: int
    l4: int
    inner: int
    inner_l4: int

    @classmethod
    def of(cls, packet: Packet, tunnel: Tunnel) -> "Places":
        ips = [layer for layer in packet.layers() if layer in (IP, IPv6)]
        assert len(ips) == 2
        whole = len(bytes(packet))
        outer = whole - len(bytes(packet.getlayer(ips[0])))
        second = packet.getlayer(ips[1], 2 if ips[0] is ips[1] else 1)
        inner = whole - len(bytes(second))
        fixed = 20 if tunnel.outer == 4 else 40 + 8 * tunnel.extension
        return cls(outer, outer + fixed, inner, inner + (20 if tunnel.inner == 4 else 40))


def blanked(packet: Packet, tunnel: Tunnel, large: bool) -> bytes:
    """As drivers leave it: checksums that are asked for anything, of a large one no lengths."""
    places = Places.of(packet, tunnel)
    data = bytearray(bytes(packet))
    layers = ((places.outer, tunnel.outer), (places.inner, tunnel.inner))
    for at, version in layers:
        if version == 4:
            data[at + 10 : at + 12] = b"\xa5\x5a"
        if large:
            where = at + 2 if version == 4 else at + 4
            data[where : where + 2] = bytes(2)
    field = {"tcp": 16, "udp": 6, "sctp": 8}[tunnel.l4]
    size = 4 if tunnel.l4 == "sctp" else 2
    at = places.inner_l4 + field
    data[at : at + size] = b"\x11\x22\x33\x44"[:size]
    if tunnel.outer_csum:
        data[places.l4 + 6 : places.l4 + 8] = b"\x55\x66"
    if large and tunnel.l4tunt == 1:
        data[places.l4 + 4 : places.l4 + 6] = bytes(2)
    return bytes(data)
