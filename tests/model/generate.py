"""Random packets of every class that a receiver tells apart, checksums right."""

import random

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw


def address(source: random.Random) -> str:
    return f"10.{source.randrange(4)}.0.{source.randrange(1, 5)}"


def upper(source: random.Random, version: int) -> Packet:
    ports = {"sport": source.randrange(1, 6), "dport": source.randrange(1, 6)}
    icmp = ICMP() if version == 4 else ICMPv6EchoRequest()
    return source.choice(
        [TCP(**ports, flags=source.choice(["S", "A"])), UDP(**ports), SCTP(**ports), icmp]
    )


def packet(
    source: random.Random, number: int, dst: str = "02:00:00:00:00:02", tags: bool = True
) -> bytes:
    """One of a handful of flows, told from all others by `number`."""
    frame: Packet = Ether(src=f"02:00:00:00:00:{source.randrange(16, 20):02x}", dst=dst)
    if tags and source.random() < 0.25:
        if source.random() < 0.5:
            frame /= Dot1AD(vlan=source.randrange(1, 9))
        frame /= Dot1Q(vlan=source.randrange(1, 9), prio=source.randrange(8))
    payload = Raw(number.to_bytes(4, "big") + bytes(source.randrange(40)))
    kind = source.random()
    if kind < 0.08:
        return bytes(frame / ARP() / payload if source.random() < 0.5 else frame / payload)
    version = source.choice([4, 6])
    one, other = address(source), address(source)
    fragment = source.random() < 0.15
    if version == 4:
        where = {"frag": source.randrange(1, 4)} if source.random() < 0.5 else {"flags": "MF"}
        frame /= IP(
            src=one,
            dst=other,
            id=source.randrange(4),
            ttl=source.randrange(60, 64),
            tos=source.randrange(4) << 2,
            **(where if fragment else {}),
        )
        if not fragment and source.random() < 0.1:
            frame[IP].options = [b"\x01\x01\x01\x00"]
    else:
        frame /= IPv6(
            src="2001:db8::" + one.replace(".", ":"),
            dst="fe80::" + other.replace(".", ":"),
            hlim=source.randrange(60, 64),
            tc=source.randrange(4) << 2,
        )
        if source.random() < 0.1:
            frame /= IPv6ExtHdrDestOpt()
        if fragment:
            frame /= IPv6ExtHdrFragment(id=source.randrange(9), offset=source.randrange(3), m=1)
    return bytes(frame / upper(source, version) / payload)
