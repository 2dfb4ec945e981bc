"""Protocol headers of rules: which fields they name and where those stand in a frame.

Shared by all messages that describe packets (virtchnl_proto_hdrs).  Known are the protocols that
the parser of the data path knows; a rule for any other is refused, as ice refuses one for which
its device has no packet type.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from emuiavf.emudev.info import FlowBase, FlowRule, FlowWord
from emuiavf.virtchnl.messages import ProtoHdr, VirtchnlError
from emuiavf.virtchnl.ops import Proto

MAX_HEADERS = 32


class Field(Enum):
    """Fields of a packet, in the order in which they are hashed."""

    IP_SRC = auto()
    IP_DST = auto()
    IP_SRC64 = auto()
    IP_DST64 = auto()
    SRC_PORT = auto()
    DST_PORT = auto()
    PROTOCOL = auto()
    IP_ID = auto()
    IP_CSUM = auto()
    L4_CSUM = auto()
    DSCP = auto()
    TTL = auto()
    ETH_DST = auto()
    ETH_SRC = auto()
    ETHERTYPE = auto()
    S_VLAN = auto()
    C_VLAN = auto()


_PORTS = (Field.SRC_PORT, Field.DST_PORT)

# What bit n of a header's field_selector names.  IPv6 has prefixes of other lengths that ice
# does not take.
SELECTORS: dict[Proto, dict[int, Field]] = {
    Proto.ETH: dict(enumerate((Field.ETH_SRC, Field.ETH_DST, Field.ETHERTYPE))),
    Proto.S_VLAN: {0: Field.S_VLAN},
    Proto.C_VLAN: {0: Field.C_VLAN},
    Proto.IPV4: dict(
        enumerate(
            (Field.IP_SRC, Field.IP_DST, Field.DSCP, Field.TTL, Field.PROTOCOL, Field.IP_CSUM)
        )
    ),
    Proto.IPV6: {
        **dict(enumerate((Field.IP_SRC, Field.IP_DST, Field.DSCP, Field.TTL, Field.PROTOCOL))),
        11: Field.IP_SRC64,
        12: Field.IP_DST64,
    },
    Proto.IPV4_FRAG: {0: Field.IP_ID},
    Proto.IPV6_EH_FRAG: {0: Field.IP_ID},
    Proto.TCP: dict(enumerate((*_PORTS, Field.L4_CSUM))),
    Proto.UDP: dict(enumerate((*_PORTS, Field.L4_CSUM))),
    Proto.SCTP: dict(enumerate((*_PORTS, Field.L4_CSUM))),
}

_ALL, _HIGH, _LOW = 0xFFFF_FFFF, 0xFFFF_0000, 0xFFFF
_Places = tuple[tuple[FlowBase, int, int], ...]


def _l3(*places: tuple[int, int]) -> _Places:
    return tuple((FlowBase.L3, offset, mask) for offset, mask in places)


_COMMON: dict[Field, _Places] = {
    Field.SRC_PORT: ((FlowBase.L4, 0, _HIGH),),
    Field.DST_PORT: ((FlowBase.L4, 0, _LOW),),
    Field.ETH_DST: ((FlowBase.FRAME, 0, _ALL), (FlowBase.FRAME, 4, _HIGH)),
    Field.ETH_SRC: ((FlowBase.FRAME, 4, _LOW), (FlowBase.FRAME, 8, _ALL)),
    Field.ETHERTYPE: _l3((-4, _LOW)),
    Field.S_VLAN: ((FlowBase.OUTER_TAG, 0, 0xFFF),),
    Field.C_VLAN: ((FlowBase.INNER_TAG, 0, 0xFFF),),
}
_BY_VERSION: dict[int, dict[Field, _Places]] = {
    0: {},
    4: {
        Field.IP_SRC: _l3((12, _ALL)),
        Field.IP_DST: _l3((16, _ALL)),
        Field.DSCP: _l3((0, 0x00FC_0000)),
        Field.TTL: _l3((8, 0xFF00_0000)),
        Field.PROTOCOL: _l3((8, 0x00FF_0000)),
        Field.IP_CSUM: _l3((8, _LOW)),
        Field.IP_ID: _l3((4, _HIGH)),
    },
    6: {
        Field.IP_SRC: _l3(*((offset, _ALL) for offset in (8, 12, 16, 20))),
        Field.IP_DST: _l3(*((offset, _ALL) for offset in (24, 28, 32, 36))),
        Field.IP_SRC64: _l3((8, _ALL), (12, _ALL)),
        Field.IP_DST64: _l3((24, _ALL), (28, _ALL)),
        Field.DSCP: _l3((0, 0x0FF0_0000)),
        Field.TTL: _l3((4, 0x0000_00FF)),
        Field.PROTOCOL: _l3((4, 0x0000_FF00)),
        # The parser ends the L3 header where a fragment header begins.
        Field.IP_ID: ((FlowBase.L4, 4, _ALL),),
    },
}
_L4_CSUM: dict[Proto, _Places] = {
    Proto.TCP: ((FlowBase.L4, 16, _HIGH),),
    Proto.UDP: ((FlowBase.L4, 4, _LOW),),
    Proto.SCTP: ((FlowBase.L4, 8, _ALL),),
}

# Packet types of Intel's table: without IP, and by kind from 22 (IPv4) or 88 (IPv6) on.
PTYPES_NO_IP = frozenset({1, 2, 6, 11})
PTYPE_BASE = {4: 22, 6: 88}
FRAGMENT, OTHER, ICMP = 0, 1, 6
L4_KINDS = {Proto.UDP: 2, Proto.TCP: 4, Proto.SCTP: 5}
IP_PROTOCOL = {Proto.IPV4: 4, Proto.IPV6: 6}


class Stack(NamedTuple):
    """Packets by their headers: IP version (0: any packet) and what is above.

    `upper` is TCP, UDP or SCTP, IPV4_FRAG or IPV6_EH_FRAG for fragments, or NONE for all of it.
    """

    version: int
    upper: Proto = Proto.NONE


@dataclass(frozen=True)
class StackHash:
    """What packets of a stack are hashed by."""

    fields: frozenset[Field]
    symmetric: bool = False


@dataclass(frozen=True)
class Filter:
    """A flow director rule that holds; `stack` is None for a raw one."""

    stack: Stack | None
    rule: FlowRule

    @property
    def pattern(self) -> tuple[Stack | None, tuple[FlowWord, ...]]:
        return self.stack, self.rule.words


def headers(count: int, data: bytes) -> tuple[ProtoHdr, ...]:
    """The headers of a rule; VirtchnlError unless 1 to 32 are counted."""
    if not 0 < count <= MAX_HEADERS:
        raise VirtchnlError(f"{count} protocol headers, allowed 1..{MAX_HEADERS}")
    return ProtoHdr.decode_list(data, 0, count)


def stack_of(protocols: Iterable[int]) -> Stack:
    """The packets that headers of these types describe, outermost first.

    Ethernet and VLAN headers in front do not narrow it.  VirtchnlError for unknown protocols, and
    for an order of headers that no packet without tunnels has.
    """
    version, upper = 0, Proto.NONE
    for number in protocols:
        try:
            proto = Proto(number)
        except ValueError:
            raise VirtchnlError(f"protocol header of type {number}") from None
        if proto not in SELECTORS:
            raise VirtchnlError(f"{proto.name}: no packet is parsed so far")
        if proto in IP_PROTOCOL and version == 0:
            version = IP_PROTOCOL[proto]
        elif proto in (Proto.ETH, Proto.S_VLAN, Proto.C_VLAN) and version == 0:
            continue
        elif upper is Proto.NONE and _fits(proto, version):
            upper = proto
        else:
            raise VirtchnlError(f"{proto.name}: behind headers that do not carry it")
    return Stack(version, upper)


def _fits(proto: Proto, version: int) -> bool:
    if proto in L4_KINDS:
        return version != 0
    return version == {Proto.IPV4_FRAG: 4, Proto.IPV6_EH_FRAG: 6}.get(proto)


def places_of(field: Field, stack: Stack) -> _Places:
    """Where a field stands: base, offset and mask of each word it has a part in."""
    if field is Field.L4_CSUM:
        return _L4_CSUM[stack.upper]
    return _COMMON.get(field) or _BY_VERSION[stack.version][field]


def words_of(fields: Iterable[Field], stack: Stack) -> tuple[FlowWord, ...]:
    """The words that hold these fields, in the order of `Field`, each place once."""
    masks: dict[tuple[FlowBase, int], int] = {}
    for field in sorted(fields, key=lambda field: field.value):
        for base, offset, mask in places_of(field, stack):
            masks[base, offset] = masks.get((base, offset), 0) | mask
    return tuple(FlowWord(base, offset, mask) for (base, offset), mask in masks.items())
