"""What a guest sends and receives, as values: offload requests in, descriptor verdicts out.

Descriptor bits come from `_pmd`; here they get their meaning.  Facts: AVF descriptors 5.1, 5.3.
"""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Self

from emuiavf._rxdid import Rxdid
from emuiavf.guest._pmd import FlexBits, RxBits, TxBits


class L4(IntEnum):
    """L4T of a Tx descriptor."""

    NONE = 0
    TCP = 1
    SCTP = 2
    UDP = 3


class Iipt(IntEnum):
    """IIPT of a Tx descriptor."""

    NONE = 0
    IPV6 = 1
    IPV4 = 2
    IPV4_CSUM = 3


class L4tunt(IntEnum):
    """L4TUNT of a context descriptor."""

    NONE = 0
    UDP = 1
    GRE = 2


@dataclass(frozen=True)
class Tunnel:
    """What carries a packet in a packet; lengths in bytes.

    `length` counts from the outer IP header (of `l3_len`) to the inner one.  `udp_csum` asks for
    the outer UDP checksum, `keep_id` for one IPv4 id for all segments; `eipt` as IIPT.
    """

    eipt: Iipt
    l4tunt: L4tunt
    l3_len: int
    length: int
    udp_csum: bool = False
    keep_id: bool = False

    @property
    def fields(self) -> int:
        """Qword 0 of the context descriptor, without a tag."""
        word = self.eipt | (self.l3_len // 4) << TxBits.TX_CTX_EIPLEN_SHIFT
        word |= self.l4tunt << TxBits.TX_CTX_L4TUNT_SHIFT
        word |= (self.length // 2) << TxBits.TX_CTX_L4TUNLEN_SHIFT
        word |= TxBits.TX_CTX_EIP_NOINC * self.keep_id
        return word | TxBits.TX_CTX_L4T_CS * self.udp_csum


_L4_OF_PROTOCOL = {6: L4.TCP, 17: L4.UDP, 132: L4.SCTP}
_L4_MIN_LEN = {L4.NONE: 0, L4.TCP: 20, L4.SCTP: 12, L4.UDP: 8}
_TAG_TYPES = (0x8100, 0x88A8)
_FLEXBH_FD_ID = 1
_NO_FLOW = 0xFFFF_FFFF


@dataclass(frozen=True)
class TxFrame:
    """A frame to send and what the device is asked to do to it; lengths in bytes.

    `mss` > 0 asks for segmentation, `vlan_tci` for the insertion of a tag (L2TAG1), `outer_tci`
    for one in front of that (L2TAG2).  With a `tunnel` l2_len is of the outer packet, and all else
    of the inner one.
    """

    data: bytes
    iipt: Iipt = Iipt.NONE
    l4: L4 = L4.NONE
    l2_len: int = 0
    l3_len: int = 0
    l4_len: int = 0
    mss: int = 0
    vlan_tci: int | None = None
    outer_tci: int | None = None
    tunnel: Tunnel | None = None

    @classmethod
    def offloaded(cls, data: bytes, mss: int = 0, vlan_tci: int | None = None) -> Self:
        """Ask for every checksum of an IPv4 or IPv6 frame, and segmentation when `mss` > 0.

        The checksum fields are zeroed here: a device computes from scratch.  ValueError when the
        frame is neither IPv4 nor IPv6 (no extension headers) with TCP, UDP or SCTP.
        """
        l2_len = 14
        while struct.unpack_from(">H", data, l2_len - 2)[0] in _TAG_TYPES:
            l2_len += 4
        ethertype = struct.unpack_from(">H", data, l2_len - 2)[0]
        frame = bytearray(data)
        if ethertype == 0x0800:
            iipt, l3_len, protocol = Iipt.IPV4_CSUM, (data[l2_len] & 15) * 4, data[l2_len + 9]
            struct.pack_into(">H", frame, l2_len + 10, 0)
        elif ethertype == 0x86DD:
            iipt, l3_len, protocol = Iipt.IPV6, 40, data[l2_len + 6]
        else:
            raise ValueError(f"ethertype {ethertype:#06x}: no checksum to ask for")
        l4 = _L4_OF_PROTOCOL.get(protocol)
        if l4 is None:
            raise ValueError(f"IP protocol {protocol}: no checksum to ask for")
        at = l2_len + l3_len
        _zero_l4_checksum(frame, at, l4)
        l4_len = (data[at + 12] >> 4) * 4 if l4 is L4.TCP else _L4_MIN_LEN[l4]
        return cls(bytes(frame), iipt, l4, l2_len, l3_len, l4_len, mss, vlan_tci)

    @property
    def fields(self) -> int:
        """Qword 1 of the data descriptors, without EOP, RS and size."""
        word = TxBits.TX_DTYPE_DATA | TxBits.TX_ICRC
        word |= self.iipt << TxBits.TX_IIPT_SHIFT | self.l4 << TxBits.TX_L4T_SHIFT
        word |= (self.l2_len // 2) << TxBits.TX_MACLEN_SHIFT
        word |= (self.l3_len // 4) << TxBits.TX_IPLEN_SHIFT
        word |= (self.l4_len // 4) << TxBits.TX_L4LEN_SHIFT
        if self.vlan_tci is not None:
            word |= TxBits.TX_IL2TAG1 | self.vlan_tci << TxBits.TX_L2TAG1_SHIFT
        return word

    @property
    def context(self) -> tuple[int, int] | None:
        """Both qwords of a context descriptor, for segmentation, an outer tag or a tunnel."""
        if not self.mss and self.outer_tci is None and self.tunnel is None:
            return None
        outer, word = 0, int(TxBits.TX_DTYPE_CONTEXT)
        payload = len(self.data) - self.l2_len - self.l3_len - self.l4_len
        if self.tunnel:
            outer = self.tunnel.fields
            payload -= self.tunnel.l3_len + self.tunnel.length
        if self.mss:
            word |= TxBits.TX_CTX_TSO | (payload & 0x3FFFF) << TxBits.TX_CTX_TSO_LEN_SHIFT
            word |= self.mss << TxBits.TX_CTX_MSS_SHIFT
        if self.outer_tci is not None:
            outer |= self.outer_tci << TxBits.TX_CTX_L2TAG2_SHIFT
            word |= TxBits.TX_CTX_IL2TAG2
        return outer, word

    def tagged(self, vlan_tci: int) -> Self:
        """The same with a VLAN tag to be inserted."""
        return replace(self, vlan_tci=vlan_tci)


def _zero_l4_checksum(frame: bytearray, at: int, l4: L4) -> None:
    if l4 is L4.SCTP:
        struct.pack_into(">I", frame, at + 8, 0)
    else:
        struct.pack_into(">H", frame, at + (16 if l4 is L4.TCP else 6), 0)


@dataclass(frozen=True)
class Frame:
    """A received frame and the verdicts of its last descriptor.

    `error` has the bits of the legacy format, `status` those of the ring's own.  `vlan_tci` is the
    tag that was moved to L2TAG1, `outer_tci` that of the second L2TAG2; `mark` is that of a flow
    director rule.  `words` are two of the frame's headers, as DPDK's guide to net_ice names them
    under "proto_xtr", and `time` the low 32 bits of the nanoseconds of the PTP clock.
    """

    data: bytes
    queue: int
    status: int
    error: int
    ptype: int
    rss_hash: int | None
    vlan_tci: int | None
    mark: int | None = None
    outer_tci: int | None = None
    words: tuple[int | None, int | None] = (None, None)
    time: int | None = None

    @classmethod
    def from_descriptor(cls, data: bytes, queue: int, rxdid: int, *qwords: int) -> Self:
        """From the four qwords of a writeback in the format `rxdid`."""
        if rxdid == Rxdid.LEGACY:
            return cls._from_legacy(data, queue, *qwords)
        return cls._from_flexible(data, queue, rxdid, *qwords)

    @classmethod
    def _from_legacy(
        cls, data: bytes, queue: int, qword0: int, qword1: int, qword2: int, qword3: int
    ) -> Self:
        status = qword1 & RxBits.RX_STATUS_MASK
        return cls(
            data=data,
            queue=queue,
            status=status,
            error=qword1 >> RxBits.RX_ERROR_SHIFT & RxBits.RX_ERROR_MASK,
            ptype=qword1 >> RxBits.RX_PTYPE_SHIFT & RxBits.RX_PTYPE_MASK,
            rss_hash=qword0 >> 32 if status & RxBits.RX_FLTSTAT == RxBits.RX_FLTSTAT else None,
            vlan_tci=qword0 >> 16 & 0xFFFF if status & RxBits.RX_L2TAG1P else None,
            mark=qword3 >> 32 if qword2 >> 4 & 3 == _FLEXBH_FD_ID else None,
            outer_tci=_second_tag(qword2, RxBits.RX_L2TAG2P),
        )

    @classmethod
    def _from_flexible(
        cls, data: bytes, queue: int, rxdid: int, qword0: int, qword1: int, qword2: int, qword3: int
    ) -> Self:
        status = qword1 & 0xFFFF
        rss_hash, flow_id = qword1 >> 32, qword3 & 0xFFFF_FFFF
        if rxdid == Rxdid.FLEX_OVS:
            rss_hash, flow_id = flow_id, rss_hash
        error = RxBits.RX_ERROR_IPE * (status >> FlexBits.FLEX_IPE_SHIFT & 1)
        error |= RxBits.RX_ERROR_L4E * (status >> FlexBits.FLEX_L4E_SHIFT & 1)
        error |= RxBits.RX_ERROR_RXE * (status >> FlexBits.FLEX_RXE_SHIFT & 1)
        return cls(
            data=data,
            queue=queue,
            status=status,
            error=error,
            ptype=qword0 >> FlexBits.FLEX_PTYPE_SHIFT & FlexBits.FLEX_PTYPE_MASK,
            rss_hash=rss_hash if status & FlexBits.FLEX_RSS_VALID else None,
            vlan_tci=qword1 >> 16 & 0xFFFF if status & FlexBits.FLEX_L2TAG1P else None,
            mark=flow_id if flow_id != _NO_FLOW else None,
            outer_tci=_second_tag(qword2, FlexBits.FLEX_L2TAG2P),
            words=(
                qword3 >> 32 & 0xFFFF if qword2 & FlexBits.FLEX_AUX0_VALID else None,
                qword3 >> 48 if qword2 & FlexBits.FLEX_AUX1_VALID else None,
            ),
            time=qword3 >> 32 if qword2 & FlexBits.FLEX_TIME_VALID else None,
        )

    @property
    def checked(self) -> bool:
        """The device has looked at the checksums (L3L4P)."""
        return bool(self.status & RxBits.RX_L3L4P)

    @property
    def checksums_good(self) -> bool:
        return self.checked and not self.error & (RxBits.RX_ERROR_IPE | RxBits.RX_ERROR_L4E)


def _second_tag(qword2: int, present: int) -> int | None:
    return qword2 >> RxBits.RX_L2TAG2_2_SHIFT if qword2 & present else None
