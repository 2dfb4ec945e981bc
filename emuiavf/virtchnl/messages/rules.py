"""The length rule of every opcode, for both ends of the channel.

`LAYOUTS` is the one place that says what a request may look like; `decode` is its only parser and
`encode` its writer.  `REPLIES` names the structure of each reply that carries data.  What the
fields mean is the handlers' business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from emuiavf.errors import PeerError
from emuiavf.layout import Wire
from emuiavf.virtchnl.messages.filters import EtherAddr, EtherAddrList, PromiscInfo
from emuiavf.virtchnl.messages.flows import FdirAdd, FdirDel, RssCfg
from emuiavf.virtchnl.messages.ptp import PhcTime, PtpCaps
from emuiavf.virtchnl.messages.qos import (
    QosCapList,
    QuantaConfig,
    QueueBw,
    QueueBwList,
    QueueTcMap,
    TcQueues,
)
from emuiavf.virtchnl.messages.queues import (
    IrqMap,
    MaxRssQregion,
    QueueChunk,
    QueueChunkList,
    QueuePair,
    QueueRequest,
    QueueSelect,
    QueueVector,
    QueueVectorList,
    SupportedRxdids,
    VectorEntry,
    VsiQueueConfig,
)
from emuiavf.virtchnl.messages.resources import (
    CapRequest,
    PfEvent,
    StatsReply,
    Version,
    VfResources,
)
from emuiavf.virtchnl.messages.rss import RssHena, RssHfunc, RssKey, RssLut
from emuiavf.virtchnl.messages.vlan import (
    VlanCaps,
    VlanFilter,
    VlanFilterList,
    VlanId,
    VlanIdList,
    VlanSetting,
)
from emuiavf.virtchnl.ops import MAX_MESSAGE, Op, Status


class VirtchnlError(PeerError):
    """A request that is refused; dispatch answers with `status` and changes nothing.

    `body` is data of that answer, for the few requests whose answer says more.
    """

    def __init__(self, message: str, status: Status = Status.ERR_PARAM, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


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
    Op.PTP_GET_CAPS: Layout(PtpCaps),
    Op.PTP_GET_TIME: Layout(PhcTime),
    Op.GET_OFFLOAD_VLAN_V2_CAPS: Layout(None),
    Op.ADD_VLAN_V2: _list(VlanFilterList, VlanFilter, "num_elements"),
    Op.DEL_VLAN_V2: _list(VlanFilterList, VlanFilter, "num_elements"),
    Op.ENABLE_VLAN_STRIPPING_V2: Layout(VlanSetting),
    Op.DISABLE_VLAN_STRIPPING_V2: Layout(VlanSetting),
    Op.ENABLE_VLAN_INSERTION_V2: Layout(VlanSetting),
    Op.DISABLE_VLAN_INSERTION_V2: Layout(VlanSetting),
    Op.GET_QOS_CAPS: Layout(None),
    Op.CONFIG_QUEUE_TC_MAP: _list(QueueTcMap, TcQueues, "num_tc"),
    Op.CONFIG_QUEUE_BW: _list(QueueBwList, QueueBw, "num_queues"),
    Op.CONFIG_QUANTA: Layout(QuantaConfig),
    Op.GET_MAX_RSS_QREGION: Layout(None),
    Op.ENABLE_QUEUES_V2: _list(QueueChunkList, QueueChunk, "num_chunks"),
    Op.DISABLE_QUEUES_V2: _list(QueueChunkList, QueueChunk, "num_chunks"),
    Op.MAP_QUEUE_VECTOR: _list(QueueVectorList, QueueVector, "num_qv_maps"),
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
    Op.PTP_GET_CAPS: PtpCaps,
    Op.PTP_GET_TIME: PhcTime,
    Op.GET_OFFLOAD_VLAN_V2_CAPS: VlanCaps,
    Op.GET_QOS_CAPS: QosCapList,
    Op.CONFIG_QUEUE_TC_MAP: QueueTcMap,
    Op.GET_MAX_RSS_QREGION: MaxRssQregion,
}
"""Structures of the messages that the PF sends with data, of lists the header; every other reply is
empty."""


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
