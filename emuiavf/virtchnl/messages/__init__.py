"""Every virtchnl structure, a module for each subject, and in `rules` how long each message may be.

All names are had from here.
"""

# ruff: noqa: I001 (it would want a statement for each name that stays as it is)

from emuiavf.virtchnl.messages.filters import (
    EtherAddr as EtherAddr,
    EtherAddrList as EtherAddrList,
    PromiscInfo as PromiscInfo,
)
from emuiavf.virtchnl.messages.flows import (
    FdirAdd as FdirAdd,
    FdirDel as FdirDel,
    FilterAction as FilterAction,
    ProtoHdr as ProtoHdr,
    RssCfg as RssCfg,
    raw_pattern as raw_pattern,
)
from emuiavf.virtchnl.messages.ptp import (
    PhcTime as PhcTime,
    PtpCaps as PtpCaps,
)
from emuiavf.virtchnl.messages.qos import (
    QosCap as QosCap,
    QosCapList as QosCapList,
    QuantaConfig as QuantaConfig,
    QueueBw as QueueBw,
    QueueBwList as QueueBwList,
    QueueTcMap as QueueTcMap,
    TcPriorities as TcPriorities,
    TcQueues as TcQueues,
)
from emuiavf.virtchnl.messages.queues import (
    IrqMap as IrqMap,
    MaxRssQregion as MaxRssQregion,
    QueueChunk as QueueChunk,
    QueueChunkList as QueueChunkList,
    QueuePair as QueuePair,
    QueueRequest as QueueRequest,
    QueueSelect as QueueSelect,
    QueueVector as QueueVector,
    QueueVectorList as QueueVectorList,
    SupportedRxdids as SupportedRxdids,
    VectorEntry as VectorEntry,
    VsiQueueConfig as VsiQueueConfig,
)
from emuiavf.virtchnl.messages.resources import (
    CapRequest as CapRequest,
    PfEvent as PfEvent,
    StatsReply as StatsReply,
    Version as Version,
    VfResources as VfResources,
)
from emuiavf.virtchnl.messages.rss import (
    RssHena as RssHena,
    RssHfunc as RssHfunc,
    RssKey as RssKey,
    RssLut as RssLut,
)
from emuiavf.virtchnl.messages.rules import (
    LAYOUTS as LAYOUTS,
    REPLIES as REPLIES,
    Layout as Layout,
    Listing as Listing,
    Request as Request,
    Tail as Tail,
    VirtchnlError as VirtchnlError,
    decode as decode,
    encode as encode,
)
from emuiavf.virtchnl.messages.vlan import (
    VlanCaps as VlanCaps,
    VlanFilter as VlanFilter,
    VlanFilterList as VlanFilterList,
    VlanId as VlanId,
    VlanIdList as VlanIdList,
    VlanSetting as VlanSetting,
)
