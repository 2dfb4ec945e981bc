"""Which words of a frame's headers the "comms" formats of a Rx writeback tell, from DPDK's guide.

A pair of words, None where the frame has none.  The guide to net_ice names them under "proto_xtr",
least significant word first.
"""

from tests.model import offload

GENERIC, VLAN, IPV4, IPV6, IPV6_FLOW, TCP, IP_OFFSET = 16, 17, 18, 19, 20, 21, 25

Words = tuple[int | None, int | None]
NOTHING: Words = (None, None)


def words(rxdid: int, frame: bytes) -> Words:
    """Of one frame as it came, or of one segment; of a long one its first bytes suffice."""
    if rxdid == VLAN:
        return tags(frame)
    known = offload.parse(frame)
    ip = known.l2
    if rxdid == IP_OFFSET:
        return (ip if known.version == 4 else 0xFFFF, ip if known.version == 6 else 0xFFFF)
    if rxdid == IPV4 and known.version == 4:
        return offload.be16(frame, ip + 8), offload.be16(frame, ip)
    if rxdid == IPV6 and known.version == 6:
        return offload.be16(frame, ip + 6), offload.be16(frame, ip)
    if rxdid == IPV6_FLOW and known.version == 6:
        return offload.be16(frame, ip + 2), offload.be16(frame, ip)
    if rxdid == TCP and known.protocol == offload.TCP:
        return offload.be16(frame, ip + known.l3 + 12), None
    return NOTHING


def tags(frame: bytes) -> Words:
    found = [
        offload.be16(frame, at + 2)
        for at in (12, 16)
        if len(frame) >= at + 4
        and all(offload.be16(frame, before) in offload.TPIDS for before in range(12, at + 1, 4))
    ]
    first, second, *_ = [*found, None, None]
    return first, second
