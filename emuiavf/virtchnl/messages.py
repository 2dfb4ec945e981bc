"""Every virtchnl structure and the length rule of every opcode, for both ends of the channel.

`LAYOUTS` is the one place that says what a request may look like; `decode` is its only parser and
`encode` its writer.  `REPLIES` names the structure of each reply that carries data.  What the
fields mean is the handlers' business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from emuiavf.errors import PeerError
from emuiavf.layout import S32, U8, U16, U32, U64, Mac, Wire, wire
from emuiavf.virtchnl.ops import MAX_MESSAGE, Action, Op, Status


class VirtchnlError(PeerError):
    """A request that is refused; dispatch answers with `status` and changes nothing.

    `body` is data of that answer, for the few requests whose answer says more.
    """

    def __init__(self, message: str, status: Status = Status.ERR_PARAM, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


# Requests, in the order of their opcodes


@wire(size=8)
class Version(Wire):
    """VERSION, both ways."""

    major: U32
    minor: U32


@wire(size=4)
class CapRequest(Wire):
    """GET_VF_RESOURCES of a 1.1 VF: the capability bits it can use."""

    caps: U32


@wire(size=8)
class VsiQueueConfig(Wire):
    """CONFIG_VSI_QUEUES: header of a list of `QueuePair`."""

    vsi_id: U16
    num_queue_pairs: Annotated[int, "H4x"] = 0


@wire(size=64)
class QueuePair(Wire):
    """One queue pair of CONFIG_VSI_QUEUES; a ring_len of 0 leaves that half unconfigured."""

    tx_vsi_id: U16
    tx_queue_id: U16
    tx_ring_len: U16
    tx_headwb_enabled: U16
    tx_dma_ring_addr: U64
    tx_dma_headwb_addr: U64
    rx_vsi_id: U16
    rx_queue_id: U16
    rx_ring_len: U32
    rx_hdr_size: U16
    rx_splithdr_enabled: U16
    rx_databuffer_size: U32
    rx_max_pkt_size: U32
    rx_crc_disable: U8
    rx_rxdid: U8
    rx_flags: Annotated[int, "Bx"]
    rx_dma_ring_addr: U64
    rx_split_pos: Annotated[int, "i4x"]


@wire(size=2)
class IrqMap(Wire):
    """CONFIG_IRQ_MAP: header of a list of `VectorEntry` (which is then not aligned)."""

    num_vectors: U16 = 0


@wire(size=12)
class VectorEntry(Wire):
    """What one vector serves: bitmaps of queues and an ITR index for each direction."""

    vsi_id: U16
    vector_id: U16
    rxq_map: U16
    txq_map: U16
    rxitr_idx: U16
    txitr_idx: U16


@wire(size=12)
class QueueSelect(Wire):
    """ENABLE_QUEUES, DISABLE_QUEUES (bitmaps) and GET_STATS (only vsi_id counts)."""

    vsi_id: Annotated[int, "H2x"]
    rx_queues: U32 = 0
    tx_queues: U32 = 0


@wire(size=4)
class EtherAddrList(Wire):
    """ADD_ETH_ADDR, DEL_ETH_ADDR: header of a list of `EtherAddr`."""

    vsi_id: U16
    num_elements: U16 = 0


@wire(size=8)
class EtherAddr(Wire):
    addr: Mac
    type: Annotated[int, "Bx"] = 0


@wire(size=4)
class PromiscInfo(Wire):
    """CONFIG_PROMISCUOUS_MODE; flags as `ops.Promisc`."""

    vsi_id: U16
    flags: U16


@wire(size=8)
class RssHfunc(Wire):
    """CONFIG_RSS_HFUNC."""

    vsi_id: U16
    rss_algorithm: Annotated[int, "H4x"]


@wire(size=4)
class RssKey(Wire):
    """CONFIG_RSS_KEY: header of `key_len` bytes."""

    vsi_id: U16
    key_len: U16 = 0


@wire(size=4)
class RssLut(Wire):
    """CONFIG_RSS_LUT: header of `lut_entries` bytes, each a queue index."""

    vsi_id: U16
    lut_entries: U16 = 0


@wire(size=8)
class RssHena(Wire):
    """SET_RSS_HENA, and the reply of GET_RSS_HENA_CAPS: mask of packet classes."""

    hena: U64


@wire(size=8)
class SupportedRxdids(Wire):
    """Reply of GET_SUPPORTED_RXDIDS: bit n stands for RXDID n."""

    supported_rxdids: U64


@wire(size=72)
class ProtoHdr(Wire):
    """One protocol header of a rule; `buffer` is a header in network order, for its values."""

    type: S32
    field_selector: U32
    buffer: Annotated[bytes, "64s"] = b""


@wire(size=2444)
class RssCfg(Wire):
    """ADD_RSS_CFG, DEL_RSS_CFG: `count` of `ProtoHdr` in `headers`."""

    tunnel_level: Annotated[int, "B3x"]
    count: S32
    headers: Annotated[bytes, "2304s"]
    algorithm: Annotated[int, "i128x"]

    @classmethod
    def of(cls, headers: Sequence[ProtoHdr], algorithm: int = 0, tunnel_level: int = 0) -> Self:
        """As a driver sends it; `headers` from the outermost on."""
        packed = b"".join(header.encode() for header in headers)
        return cls(tunnel_level, len(headers), packed.ljust(2304, b"\0"), algorithm)


@wire(size=36)
class FilterAction(Wire):
    """One action of a flow director rule: what the fields mean goes by `Action`.

    QUEUE and Q_REGION have an index, the latter also the binary logarithm of the number of
    queues; MARK has its id in the place of both.
    """

    type: S32
    index: U16 = 0
    region: Annotated[int, "H28x"] = 0

    @classmethod
    def mark(cls, mark_id: int) -> Self:
        return cls(Action.MARK, mark_id & 0xFFFF, mark_id >> 16)

    @property
    def mark_id(self) -> int:
        return self.region << 16 | self.index


@wire(size=2616)
class FdirAdd(Wire):
    """ADD_FDIR_FILTER, both ways; the answer has `flow_id` and `status`."""

    vsi_id: U16
    validate_only: U16
    flow_id: U32
    tunnel_level: Annotated[int, "B3x"]
    count: S32
    headers: Annotated[bytes, "2304s"]
    action_count: S32
    actions: Annotated[bytes, "288s"]
    status: S32

    @classmethod
    def of(
        cls,
        headers: Sequence[ProtoHdr] | bytes,
        actions: Sequence[FilterAction],
        vsi_id: int = 0,
        validate_only: int = 0,
    ) -> Self:
        """As a driver sends it; `headers` as bytes is a raw pattern."""
        raw = isinstance(headers, bytes)
        packed = headers if isinstance(headers, bytes) else b"".join(h.encode() for h in headers)
        return cls(
            vsi_id=vsi_id,
            validate_only=validate_only,
            flow_id=0,
            tunnel_level=0,
            count=0 if raw else len(headers),
            headers=packed.ljust(2304, b"\0"),
            action_count=len(actions),
            actions=b"".join(action.encode() for action in actions).ljust(288, b"\0"),
            status=0,
        )


def raw_pattern(spec: bytes, mask: bytes) -> bytes:
    """A raw pattern: bits of `mask` tell which of `spec` a frame must have, from its start on."""
    return len(spec).to_bytes(2, "little") + spec.ljust(1024, b"\0") + mask.ljust(1024, b"\0")


@wire(size=12)
class FdirDel(Wire):
    """DEL_FDIR_FILTER, both ways; the answer has `status`."""

    vsi_id: Annotated[int, "H2x"]
    flow_id: U32
    status: S32 = 0


@wire(size=2)
class QueueRequest(Wire):
    """REQUEST_QUEUES, both ways: a number of queue pairs."""

    num_queue_pairs: U16


@wire(size=4)
class VlanIdList(Wire):
    """ADD_VLAN, DEL_VLAN: header of a list of `VlanId`."""

    vsi_id: U16
    num_elements: U16 = 0


@wire(size=2)
class VlanId(Wire):
    vlan_id: U16


@wire(size=8)
class VlanFilterList(Wire):
    """ADD_VLAN_V2, DEL_VLAN_V2: header of a list of `VlanFilter`."""

    vport_id: U16
    num_elements: Annotated[int, "H4x"] = 0


@wire(size=32)
class VlanFilter(Wire):
    """One VLAN filter; a part (inner, outer) is present when its tci or tpid is not zero."""

    inner_tci: U16
    inner_tci_mask: U16
    inner_tpid: Annotated[int, "H2x"]
    outer_tci: U16 = 0
    outer_tci_mask: U16 = 0
    outer_tpid: Annotated[int, "H18x"] = 0


@wire(size=16)
class VlanSetting(Wire):
    """ENABLE and DISABLE of VLAN_STRIPPING_V2 and VLAN_INSERTION_V2; bits of `VlanSupport`."""

    outer_ethertype_setting: U32
    inner_ethertype_setting: U32
    vport_id: Annotated[int, "H6x"]


# Replies and events


@wire(size=36)
class VfResources(Wire):
    """Reply of GET_VF_RESOURCES with its one VSI."""

    num_vsis: U16
    num_queue_pairs: U16
    max_vectors: U16
    max_mtu: U16
    vf_cap_flags: U32
    rss_key_size: U32
    rss_lut_size: U32
    vsi_id: U16
    vsi_num_queue_pairs: U16
    vsi_type: S32
    qset_handle: U16
    default_mac_addr: Mac


@wire(size=96)
class StatsReply(Wire):
    """Reply of GET_STATS: totals since the device started."""

    rx_bytes: U64
    rx_unicast: U64
    rx_multicast: U64
    rx_broadcast: U64
    rx_discards: U64
    rx_unknown_protocol: U64
    tx_bytes: U64
    tx_unicast: U64
    tx_multicast: U64
    tx_broadcast: U64
    tx_discards: U64
    tx_errors: U64


@wire(size=40)
class VlanCaps(Wire):
    """Reply of GET_OFFLOAD_VLAN_V2_CAPS; bits of `VlanSupport`."""

    filtering_outer: U32
    filtering_inner: U32
    filtering_ethertype_init: U32
    max_filters: Annotated[int, "H2x"]
    stripping_outer: U32
    stripping_inner: U32
    insertion_outer: U32
    insertion_inner: U32
    offloads_ethertype_init: U32
    ethertype_match: Annotated[int, "B3x"]


@wire(size=16)
class PfEvent(Wire):
    """EVENT; `link_speed` in Mbps with ADV_LINK_SPEED, else a `LinkSpeed` code."""

    event: S32
    link_speed: U32
    link_status: Annotated[int, "B3x"]
    severity: S32


# Length rules


@dataclass(frozen=True)
class Tail:
    """Elements behind the header: `item` structures, or single bytes where it is None.

    Drivers send `count + extra` of them, because the C structure once ended in `item[1]`.
    """

    item: type[Wire] | None
    count: str
    max_count: int
    extra: int = 0

    @property
    def item_size(self) -> int:
        return 1 if self.item is None else self.item.SIZE


@dataclass(frozen=True)
class Layout:
    """What a request consists of: nothing, a header, or a header and a tail.

    `optional`: the header may be missing altogether (GET_VF_RESOURCES of a 1.0 VF).
    """

    head: type[Wire] | None
    tail: Tail | None = None
    optional: bool = False


@dataclass(frozen=True)
class Listing:
    """A decoded request with a tail; `items` is a tuple of structures or bytes."""

    head: Any
    items: Any


Request = Wire | Listing | None


def _list(head: type[Wire], item: type[Wire] | None, count: str, extra: int = 0) -> Layout:
    """A list as long as an admin queue buffer has room for, its padding included."""
    room = (MAX_MESSAGE - head.SIZE) // (1 if item is None else item.SIZE)
    return Layout(head, Tail(item, count, room - extra, extra))


LAYOUTS: dict[Op, Layout] = {
    Op.VERSION: Layout(Version),
    Op.RESET_VF: Layout(None),
    Op.GET_VF_RESOURCES: Layout(CapRequest, optional=True),
    Op.CONFIG_VSI_QUEUES: _list(VsiQueueConfig, QueuePair, "num_queue_pairs", extra=1),
    Op.CONFIG_IRQ_MAP: _list(IrqMap, VectorEntry, "num_vectors", extra=1),
    Op.ENABLE_QUEUES: Layout(QueueSelect),
    Op.DISABLE_QUEUES: Layout(QueueSelect),
    Op.ADD_ETH_ADDR: _list(EtherAddrList, EtherAddr, "num_elements", extra=1),
    Op.DEL_ETH_ADDR: _list(EtherAddrList, EtherAddr, "num_elements", extra=1),
    Op.CONFIG_PROMISCUOUS_MODE: Layout(PromiscInfo),
    Op.GET_STATS: Layout(QueueSelect),
    Op.CONFIG_RSS_HFUNC: Layout(RssHfunc),
    Op.CONFIG_RSS_KEY: _list(RssKey, None, "key_len", extra=1),
    Op.CONFIG_RSS_LUT: _list(RssLut, None, "lut_entries", extra=1),
    Op.GET_RSS_HENA_CAPS: Layout(None),
    Op.SET_RSS_HENA: Layout(RssHena),
    Op.ADD_RSS_CFG: Layout(RssCfg),
    Op.DEL_RSS_CFG: Layout(RssCfg),
    Op.ADD_FDIR_FILTER: Layout(FdirAdd),
    Op.DEL_FDIR_FILTER: Layout(FdirDel),
    Op.ADD_VLAN: _list(VlanIdList, VlanId, "num_elements", extra=1),
    Op.DEL_VLAN: _list(VlanIdList, VlanId, "num_elements", extra=1),
    Op.ENABLE_VLAN_STRIPPING: Layout(None),
    Op.DISABLE_VLAN_STRIPPING: Layout(None),
    Op.REQUEST_QUEUES: Layout(QueueRequest),
    Op.GET_SUPPORTED_RXDIDS: Layout(None),
    Op.GET_OFFLOAD_VLAN_V2_CAPS: Layout(None),
    Op.ADD_VLAN_V2: _list(VlanFilterList, VlanFilter, "num_elements"),
    Op.DEL_VLAN_V2: _list(VlanFilterList, VlanFilter, "num_elements"),
    Op.ENABLE_VLAN_STRIPPING_V2: Layout(VlanSetting),
    Op.DISABLE_VLAN_STRIPPING_V2: Layout(VlanSetting),
    Op.ENABLE_VLAN_INSERTION_V2: Layout(VlanSetting),
    Op.DISABLE_VLAN_INSERTION_V2: Layout(VlanSetting),
}

REPLIES: dict[Op, type[Wire]] = {
    Op.VERSION: Version,
    Op.GET_VF_RESOURCES: VfResources,
    Op.GET_STATS: StatsReply,
    Op.EVENT: PfEvent,
    Op.GET_RSS_HENA_CAPS: RssHena,
    Op.ADD_FDIR_FILTER: FdirAdd,
    Op.DEL_FDIR_FILTER: FdirDel,
    Op.REQUEST_QUEUES: QueueRequest,
    Op.GET_SUPPORTED_RXDIDS: SupportedRxdids,
    Op.GET_OFFLOAD_VLAN_V2_CAPS: VlanCaps,
}
"""Structures of the messages that the PF sends with data; every other reply is empty."""


def decode(op: Op, body: bytes) -> Request:
    """The request in `body`: its header, a `Listing`, or None when it has no data.

    Lists pass with and without their historic padding, everything else at its exact length.
    VirtchnlError (ERR_PARAM) when the length does not fit or a count is 0 or too large.
    """
    layout = LAYOUTS[op]
    if layout.head is None or (layout.optional and not body):
        _check(op, not body, f"{len(body)} bytes, takes no data")
        return None
    size = layout.head.SIZE
    tail = layout.tail
    if tail is None:
        _check(op, len(body) == size, f"{len(body)} bytes, needs {size}")
        return layout.head.decode(body)
    _check(op, len(body) >= size, f"{len(body)} bytes, header needs {size}")
    head = layout.head.decode(body)
    count = getattr(head, tail.count)
    _check(op, 0 < count <= tail.max_count, f"{tail.count}={count}, allowed 1..{tail.max_count}")
    end = size + count * tail.item_size
    _check(op, len(body) >= end, f"{len(body)} bytes, {tail.count}={count} needs {end}")
    if tail.item is None:
        return Listing(head, bytes(body[size:end]))
    return Listing(head, tail.item.decode_list(body, size, count))


def encode(
    op: Op, head: Wire | None = None, items: Sequence[Wire] | bytes = (), *, padded: bool = True
) -> bytes:
    """A request as a driver sends it.  The count field of a list is filled in from `items`.

    `padded` appends the zero element that real drivers append where the rule has one.
    """
    if head is None:
        return b""
    tail = LAYOUTS[op].tail
    if tail is None:
        return head.encode()
    head = replace(head, **{tail.count: len(items)})  # type: ignore[type-var]
    data = items if isinstance(items, bytes) else b"".join(item.encode() for item in items)
    padding = bytes(tail.item_size * tail.extra) if padded else b""
    return head.encode() + data + padding


def _check(op: Op, holds: bool, fault: str) -> None:
    if not holds:
        raise VirtchnlError(f"{op.name}: {fault}")
