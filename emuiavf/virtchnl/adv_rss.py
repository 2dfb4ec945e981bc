"""ADD_RSS_CFG, DEL_RSS_CFG: which fields of which packets are hashed.

A message is for a stack of headers and stands in the place of what was said of that stack before;
one for all packets of an IP version also takes the place of those for its TCP, UDP and SCTP.  The
narrower stack decides: TCP over IPv4 before IPv4 before Ethernet.  Where the outcome is what a
class of HENA does, that class is told to the data path, which has the quicker way for it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from emuiavf.emudev.info import FlowWord, HashInput, RssConfig
from emuiavf.virtchnl import flows
from emuiavf.virtchnl.flows import Field, Stack, StackHash
from emuiavf.virtchnl.messages import ProtoHdr, RssCfg
from emuiavf.virtchnl.ops import HashFunc, Proto
from emuiavf.virtchnl.state import Vf, check

_ADDRESSES = frozenset({Field.IP_SRC, Field.IP_DST})
_PORTS = frozenset({Field.SRC_PORT, Field.DST_PORT})
_FRAG = {4: Proto.IPV4_FRAG, 6: Proto.IPV6_EH_FRAG}
_ETHER = Stack(0)

# Classes of HENA by what the packets carry; those of IPv6 stand ten bits higher.
_HENA = {
    Proto.UDP: 0b111 << 29,
    Proto.TCP: 0b11 << 32,
    Proto.SCTP: 1 << 34,
    flows.OTHER: 1 << 35,
    flows.FRAGMENT: 1 << 36,
}
_HENA_SHIFT = {4: 0, 6: 10}

# Fields of one header that ice takes together.  Any other selection counts for nothing.
_IP4 = {Field.IP_SRC, Field.IP_DST, Field.PROTOCOL, Field.IP_CSUM}
_IP6 = {Field.IP_SRC, Field.IP_DST, Field.PROTOCOL}
_IP6_64 = {Field.IP_SRC64, Field.IP_DST64, Field.PROTOCOL}
_TAKEN: dict[Proto, tuple[set[Field], ...]] = {
    Proto.ETH: ({Field.ETH_SRC, Field.ETH_DST}, {Field.ETHERTYPE}),
    Proto.S_VLAN: ({Field.S_VLAN},),
    Proto.C_VLAN: ({Field.C_VLAN},),
    Proto.IPV4: (_IP4,),
    Proto.IPV6: (_IP6, _IP6_64),
    Proto.IPV4_FRAG: ({Field.IP_ID},),
    Proto.IPV6_EH_FRAG: ({Field.IP_ID},),
    **dict.fromkeys(flows.L4_KINDS, ({*_PORTS, Field.L4_CSUM},)),
}


def on_add_rss_cfg(vf: Vf, msg: RssCfg) -> bytes:
    """ADD_RSS_CFG.  Algorithm 1 makes all hashes XORs and says nothing of its headers, 2 makes this
    stack symmetric, 0 and 3 are plain Toeplitz: all as in ice."""
    rss, stacks = vf.config.rss, vf.config.hash_stacks
    if _algorithm(msg) is HashFunc.XOR:
        return _done(vf, replace(rss, xor=True), stacks)
    stack, fields = _parsed(msg)
    rss, stacks = _with_whole(rss, stacks, stack)
    stacks = {old: made for old, made in stacks.items() if not _covers(stack, old)}
    stacks[stack] = StackHash(fields, msg.algorithm == HashFunc.SYMMETRIC_TOEPLITZ)
    hena = rss.hena
    for covered in _hena_stacks():
        if _covers(stack, covered):
            hena &= ~_hena_of(covered)
    return _done(vf, replace(rss, hena=hena, xor=False), stacks)


def on_del_rss_cfg(vf: Vf, msg: RssCfg) -> bytes:
    """DEL_RSS_CFG: hash by these fields no more; a stack hashed by others stays as it is."""
    rss, stacks = vf.config.rss, vf.config.hash_stacks
    if _algorithm(msg) is HashFunc.XOR:
        return _done(vf, replace(rss, xor=False), stacks)
    stack, fields = _parsed(msg)
    rss, stacks = _with_whole(rss, stacks, stack)
    hena = rss.hena
    if stack in stacks:
        if stacks[stack].fields == fields:
            del stacks[stack]
    elif fields == _standard(stack.upper):
        hena &= ~_hena_of(stack)
    return _done(vf, replace(rss, hena=hena, xor=False), stacks)


def _with_whole(
    rss: RssConfig, stacks: Mapping[Stack, StackHash], stack: Stack
) -> tuple[RssConfig, dict[Stack, StackHash]]:
    """HENA's class "other" as the stack that it is in ice: all packets of the IP version.

    So packets whose own stack goes away (iavf removes its stacks when its interface goes down)
    are hashed by their addresses again.
    """
    whole = Stack(stack.version)
    other = _HENA[flows.OTHER] << _HENA_SHIFT.get(stack.version, 0)
    if stack.upper not in flows.L4_KINDS or not rss.hena & other:
        return rss, dict(stacks)
    made = {whole: StackHash(_ADDRESSES, rss.symmetric), **stacks}
    return replace(rss, hena=rss.hena & ~_hena_of(whole)), made


def apply(vf: Vf, rss: RssConfig, stacks: Mapping[Stack, StackHash]) -> None:
    """Take over settings and tell the data path what follows, unless that is what it does."""
    made = resolved(rss, stacks)
    if made != resolved(vf.config.rss, vf.config.hash_stacks):
        vf.datapath.set_rss(made)
    vf.update(rss=rss, hash_stacks=stacks)


def resolved(rss: RssConfig, stacks: Mapping[Stack, StackHash]) -> RssConfig:
    """What the data path is to do: the classes of HENA as far as they go, inputs for the rest."""
    if not stacks and not rss.xor:
        return rss
    hena = 0
    inputs: dict[int, HashInput] = {}
    for version, upper, ptypes in _kinds():
        mask = _HENA[upper] << _HENA_SHIFT[version]
        made = stacks.get(Stack(version, _narrow(version, upper)))
        # Fields of an L4 header can be had only where the stack says that there is one.
        proto = upper if isinstance(upper, Proto) else Proto.NONE
        if made is None and rss.hena & mask:
            made = StackHash(_standard(proto), rss.symmetric)
            mask &= rss.hena
        made = made or stacks.get(Stack(version)) or stacks.get(_ETHER)
        if made is None:
            continue
        if made.fields == _standard(proto) and made.symmetric == rss.symmetric and not rss.xor:
            hena |= mask
        else:
            where = Stack(version, _narrow(version, upper))
            inputs |= dict.fromkeys(ptypes, _input(made, where))
    if _ETHER in stacks:
        inputs |= dict.fromkeys(flows.PTYPES_NO_IP, _input(stacks[_ETHER], _ETHER))
    return replace(rss, hena=hena, inputs=inputs)


def _algorithm(msg: RssCfg) -> HashFunc:
    check(0 <= msg.algorithm <= HashFunc.SYMMETRIC_XOR, f"rss_algorithm={msg.algorithm}")
    check(msg.count <= flows.MAX_HEADERS, f"{msg.count} protocol headers")
    return HashFunc(msg.algorithm)


def _parsed(msg: RssCfg) -> tuple[Stack, frozenset[Field]]:
    """Stack and fields; of the tunnel level ice only looks whether it makes a raw pattern."""
    found = flows.headers(msg.count, msg.headers)
    stack = flows.stack_of(header.type for header in found)
    fields = frozenset(field for header in found for field in _selected(header))
    check(bool(fields), "no field to hash")
    if stack.upper in flows.L4_KINDS:
        # It tells nothing of packets that are all of one.
        fields = fields - {Field.PROTOCOL} or fields
    return stack, fields


def _selected(header: ProtoHdr) -> set[Field]:
    proto = Proto(header.type)
    known = flows.SELECTORS[proto]
    bits = {bit for bit in range(32) if header.field_selector >> bit & 1}
    if not bits <= known.keys():
        return set()
    fields = {known[bit] for bit in bits}
    return fields if any(fields <= taken for taken in _TAKEN[proto]) else set()


def _done(vf: Vf, rss: RssConfig, stacks: Mapping[Stack, StackHash]) -> bytes:
    apply(vf, rss, stacks)
    return b""


def _covers(stack: Stack, other: Stack) -> bool:
    """Whether a message for `stack` takes the place of one for `other`."""
    if stack.version and stack.upper is Proto.NONE and stack.version == other.version:
        return other.upper not in _FRAG.values()
    return stack == other


def _hena_stacks() -> Iterator[Stack]:
    for version in _HENA_SHIFT:
        yield Stack(version)
        for upper in flows.L4_KINDS:
            yield Stack(version, upper)


def _hena_of(stack: Stack) -> int:
    """The classes of HENA that are the same packets; fragments belong to their IP version."""
    if stack.version == 0 or stack.upper in _FRAG.values():
        return 0
    if stack.upper is Proto.NONE:
        return (_HENA[flows.OTHER] | _HENA[flows.FRAGMENT]) << _HENA_SHIFT[stack.version]
    return _HENA[stack.upper] << _HENA_SHIFT[stack.version]


def _kinds() -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """IP version, what is above (a key of `_HENA`) and packet types of all that is hashed apart."""
    for version, base in flows.PTYPE_BASE.items():
        for proto, kind in flows.L4_KINDS.items():
            yield version, proto, (base + kind,)
        yield version, flows.OTHER, (base + flows.OTHER, base + flows.ICMP)
        yield version, flows.FRAGMENT, (base + flows.FRAGMENT,)


def _narrow(version: int, upper: int) -> Proto:
    if isinstance(upper, Proto):
        return upper
    return _FRAG[version] if upper == flows.FRAGMENT else Proto.NONE


def _standard(upper: Proto) -> frozenset[Field]:
    """What a class of HENA is hashed by."""
    return _ADDRESSES | _PORTS if upper in flows.L4_KINDS else _ADDRESSES


def _input(made: StackHash, where: Stack) -> HashInput:
    words = flows.words_of(made.fields, where)
    return HashInput(words, tuple(_pairs(made.fields, where, words)) if made.symmetric else ())


def _pairs(
    fields: frozenset[Field], where: Stack, words: tuple[FlowWord, ...]
) -> Iterator[tuple[int, int]]:
    """Words of which a symmetric hash uses the XOR; a field without its counterpart stays."""
    index = {(word.base, word.offset): i for i, word in enumerate(words)}
    both = [(Field.IP_SRC, Field.IP_DST), (Field.IP_SRC64, Field.IP_DST64)]
    for one, other in (*both, (Field.SRC_PORT, Field.DST_PORT)):
        if {one, other} <= fields:
            places = zip(flows.places_of(one, where), flows.places_of(other, where), strict=True)
            for (base, at, _), (_, to, _) in places:
                yield index[base, at], index[base, to]
